"""RMS norm, one program a row; see `trimtab.kernels.norm.reference`."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rms_norm(x, weight, out, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    values = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / width + eps)
    scaled = values * scale * tl.load(weight + column, mask=inside, other=0.0)
    tl.store(out + row * width + column, scaled.to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """RMS norm of the last axis. x (rows, width); weight (width,) float32. Result (rows, width) in dtype."""
    rows, width = x.shape
    out = torch.empty(rows, width, dtype=dtype, device=x.device)
    if rows:
        _rms_norm[(rows,)](x.contiguous(), weight, out, width, eps, BLOCK=triton.next_power_of_2(width))
    return out
