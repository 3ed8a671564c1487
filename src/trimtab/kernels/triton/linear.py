"""Products with rounded weights, widened tile by tile on the way into the matrix unit.

See `Int8Matrix.rows`, `GroupMatrix.rows` and `trimtab.kernels.linear.reference` for what they must equal.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trimtab.kernels.quantize import GROUP, GroupMatrix, Int8Matrix

BLOCK_OUTPUTS = 32


@triton.jit
def _finish(product, bias, add, out, row, output, mask, outputs, BIASED: tl.constexpr, ADDED: tl.constexpr):
    if BIASED:
        product += tl.load(bias + output, mask=output < outputs, other=0.0)[None, :]
    at = row[:, None].to(tl.int64) * outputs + output[None, :]
    if ADDED:
        product += tl.load(add + at, mask=mask, other=0.0)
    tl.store(out + at, product.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _linear_int8(
    x,
    q,
    scale,
    bias,
    add,
    out,
    rows,
    outputs,
    inputs,
    BIASED: tl.constexpr,
    ADDED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, inputs, INPUTS):
        k = start + tl.arange(0, INPUTS)
        left_mask = (row < rows)[:, None] & (k < inputs)[None, :]
        left = tl.load(x + row[:, None].to(tl.int64) * inputs + k[None, :], mask=left_mask, other=0.0)
        right_mask = (output < outputs)[:, None] & (k < inputs)[None, :]
        right = tl.load(q + output[:, None].to(tl.int64) * inputs + k[None, :], mask=right_mask, other=0)
        total += tl.dot(left, tl.trans(right.to(left.dtype)), input_precision="ieee")
    total *= tl.load(scale + output, mask=output < outputs, other=0.0)[None, :]
    mask = (row < rows)[:, None] & (output < outputs)[None, :]
    _finish(total, bias, add, out, row, output, mask, outputs, BIASED, ADDED)


@triton.jit
def _linear_groups(
    x,
    pairs,
    scale,
    minimum,
    bias,
    add,
    out,
    rows,
    outputs,
    inputs,
    BIASED: tl.constexpr,
    ADDED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    HALF: tl.constexpr = GROUP // 2
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, inputs // 2, INPUTS // 2):
        byte = start + tl.arange(0, INPUTS // 2)
        group = byte // HALF
        low_input = group * GROUP + byte % HALF  # the byte's low nibble; the high one is HALF further
        inside = byte < inputs // 2
        left_mask = (row < rows)[:, None] & inside[None, :]
        left = x + row[:, None].to(tl.int64) * inputs + low_input[None, :]
        x_low = tl.load(left, mask=left_mask, other=0.0)
        x_high = tl.load(left + HALF, mask=left_mask, other=0.0)
        right_mask = (output < outputs)[:, None] & inside[None, :]
        wide = output[:, None].to(tl.int64)
        q = tl.load(pairs + wide * (inputs // 2) + byte[None, :], mask=right_mask, other=0)
        at = wide * (inputs // GROUP) + group[None, :]
        step = tl.load(scale + at, mask=right_mask, other=0.0)
        least = tl.load(minimum + at, mask=right_mask, other=0.0)
        w_low = (q & 15).to(tl.float32) * step + least
        w_high = (q >> 4).to(tl.float32) * step + least
        total += tl.dot(x_low, tl.trans(w_low.to(x_low.dtype)), input_precision="ieee")
        total += tl.dot(x_high, tl.trans(w_high.to(x_high.dtype)), input_precision="ieee")
    mask = (row < rows)[:, None] & (output < outputs)[None, :]
    _finish(total, bias, add, out, row, output, mask, outputs, BIASED, ADDED)


def linear(
    x: Tensor,
    matrix: Int8Matrix | GroupMatrix,
    bias: Tensor | None = None,
    add: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`x @ W.T + bias + add`. x (rows, inputs). Result float32 with `add`, otherwise in dtype or like x."""
    (rows, inputs), x = x.shape, x.contiguous()
    outputs = matrix.scale.shape[0]
    if add is not None:
        dtype, add = torch.float32, add.float().contiguous()
    out = torch.empty(rows, outputs, dtype=dtype or x.dtype, device=x.device)
    if rows == 0:
        return out
    block = min(64, max(16, triton.next_power_of_2(rows)))
    grid = (triton.cdiv(rows, block), triton.cdiv(outputs, BLOCK_OUTPUTS))
    tail = (out if bias is None else bias, out if add is None else add, out, rows, outputs, inputs)
    shape = {
        "BIASED": bias is not None,
        "ADDED": add is not None,
        "ROWS": block,
        "OUTPUTS": BLOCK_OUTPUTS,
        "INPUTS": 64,
    }
    if isinstance(matrix, Int8Matrix):
        _linear_int8[grid](x, matrix.q, matrix.scale, *tail, **shape)
    else:
        _linear_groups[grid](x, matrix.pairs, matrix.scale, matrix.minimum, *tail, **shape, GROUP=GROUP)
    return out
