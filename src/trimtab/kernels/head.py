"""Final norm and vocabulary projection."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trimtab.kernels import norm


def cap(logits: Tensor, softcap: float) -> Tensor:
    """`softcap * tanh(logits / softcap)`; 0 leaves them as they are."""
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def reference(x: Tensor, weight: Tensor, eps: float, matrix: Tensor, softcap: float = 0.0) -> Tensor:
    """Logits of the wanted rows.

    x (rows, hidden) float32, the residual stream; weight (hidden,) of the norm; matrix (vocab, hidden), whose
    type is that of the product. Result (rows, vocab) float32.
    """
    h = norm.reference(x, weight, eps).to(matrix.dtype)
    return cap(functional.linear(h, matrix).float(), softcap)
