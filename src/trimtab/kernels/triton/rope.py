"""Head norms, rotation and the write into the pages, one program a head of a row; see `kernels.rope`."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trimtab.kernels.torch_ops import TorchCache

# Adding and taking away 1.5 * 2**23 rounds a small float32 to the nearest integer, ties to even.
ROUNDER = tl.constexpr(12582912.0)


@triton.jit
def _store_int8(values, pages, scales, at, column, inside, HEAD_DIM: tl.constexpr):
    top = tl.max(tl.abs(values), axis=0)
    inverse = tl.where(top > 0, 127.0 / tl.where(top > 0, top, 1.0), 0.0)
    steps = (values * inverse + ROUNDER) - ROUNDER
    tl.store(pages + at * HEAD_DIM + column, steps.to(tl.int8), mask=inside)
    tl.store(scales + at, top / 127.0)


@triton.jit
def _rope_store(
    qkv,
    out,
    keys,
    values,
    key_scales,
    value_scales,
    positions,
    slots,
    frequencies,
    q_norm,
    k_norm,
    factor,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMED: tl.constexpr,
    INT8: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < HEAD_DIM
    source = qkv + (row * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM
    x = tl.load(source + column, mask=inside, other=0.0).to(tl.float32)
    slot = tl.load(slots + row)
    if head < HEADS + KV_HEADS:
        # Pair of each column: i + HALF in the first half, i - HALF in the second, itself where not rotated.
        rotated = column < 2 * HALF
        partner = tl.where(column < HALF, column + HALF, tl.where(rotated, column - HALF, column))
        other = tl.load(source + partner, mask=inside, other=0.0).to(tl.float32)
        if NORMED:
            weight = q_norm
            if head >= HEADS:
                weight = k_norm
            scale = tl.rsqrt(tl.sum(x * x, axis=0) / HEAD_DIM + eps)
            x = x * scale * tl.load(weight + column, mask=inside, other=0.0)
            other = other * scale * tl.load(weight + partner, mask=inside, other=0.0)
        pair = tl.where(column < HALF, column, column - HALF)
        frequency = tl.load(frequencies + pair, mask=rotated, other=0.0)
        angle = tl.load(positions + row).to(tl.float32) * frequency
        cos = tl.where(rotated, tl.cos(angle) * factor, 1.0)
        sin = tl.where(rotated, tl.sin(angle) * factor, 0.0)
        x = x * cos + tl.where(column < HALF, -other, other) * sin
    if head < HEADS:
        tl.store(out + (row * HEADS + head) * HEAD_DIM + column, x.to(out.dtype.element_ty), mask=inside)
    elif head < HEADS + KV_HEADS:
        at = slot * KV_HEADS + head - HEADS
        if INT8:
            _store_int8(x, keys, key_scales, at, column, inside, HEAD_DIM)
        else:
            tl.store(keys + at * HEAD_DIM + column, x.to(keys.dtype.element_ty), mask=inside)
    else:
        at = slot * KV_HEADS + head - HEADS - KV_HEADS
        if INT8:
            _store_int8(x, values, value_scales, at, column, inside, HEAD_DIM)
        else:
            tl.store(values + at * HEAD_DIM + column, x.to(values.dtype.element_ty), mask=inside)


def rope_store(
    qkv: Tensor,
    cache: TorchCache,
    layer: int,
    positions: Tensor,
    slots: Tensor,
    frequencies: Tensor,
    factor: float,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """Rotated queries (rows, heads head_dim) in dtype; keys and values go to their slots of the layer.

    qkv (rows, (heads + 2 kv_heads) head_dim); positions, slots (rows,) int64; frequencies (pairs,) float32.
    """
    rows = qkv.shape[0]
    out = torch.empty(rows, heads * head_dim, dtype=dtype, device=qkv.device)
    if rows == 0:
        return out
    int8 = cache.kv_type == "int8"
    _rope_store[(rows, heads + 2 * kv_heads)](
        qkv.contiguous(),
        out,
        cache.keys[layer],
        cache.values[layer],
        cache.key_scales[layer] if int8 else out,
        cache.value_scales[layer] if int8 else out,
        positions,
        slots,
        frequencies,
        out if q_norm is None else q_norm,
        out if k_norm is None else k_norm,
        factor,
        eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        HALF=frequencies.numel(),
        BLOCK=triton.next_power_of_2(head_dim),
        NORMED=q_norm is not None,
        INT8=int8,
    )
    return out
