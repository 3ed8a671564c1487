"""Activation and product of a gated layer in one pass; see `trimtab.kernels.gated.combine`."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _combine(gate_up, out, width, GELU: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    base = gate_up + row * 2 * width + column
    gate = tl.load(base, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(base + width, mask=inside, other=0.0).to(tl.float32)
    if GELU:  # 0.5 (1 + tanh(u)) is sigmoid(2 u)
        active = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    else:
        active = gate * tl.sigmoid(gate)
    tl.store(out + row * width + column, (active * up).to(out.dtype.element_ty), mask=inside)


def combine(gate_up: Tensor, activation: str) -> Tensor:
    """`act(gate) * up`. gate_up (rows, 2 width), gate first. Result (rows, width) like it."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    if rows:
        grid = (rows, triton.cdiv(width, BLOCK))
        _combine[grid](gate_up.contiguous(), out, width, GELU=activation == "gelu_tanh", BLOCK=BLOCK)
    return out
