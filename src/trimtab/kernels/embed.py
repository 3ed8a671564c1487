"""Token embedding: where the residual stream starts."""

from __future__ import annotations

from torch import Tensor


def reference(tokens: Tensor, table: Tensor, scale: float = 1.0) -> Tensor:
    """Rows of the table. tokens (rows,) int; table (vocab, hidden). Result (rows, hidden) float32."""
    return table[tokens.long()].float() * scale
