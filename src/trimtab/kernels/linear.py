"""Matrix product with what follows it at once: bias and residual."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def reference(x: Tensor, weight: Tensor, bias: Tensor | None = None, add: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias + add`.

    x (rows, inputs) and weight (outputs, inputs) of one type; bias (outputs,); add (rows, outputs) float32.
    Result (rows, outputs): float32 with `add`, which is the residual stream, otherwise like x.
    """
    product = functional.linear(x, weight)  # (rows, outputs)
    if bias is not None:
        product = (product.float() + bias.float()).to(x.dtype)
    return product if add is None else add.float() + product.float()
