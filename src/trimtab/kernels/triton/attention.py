"""Causal attention over pages, one program a tile of queries and key-value head; see `kernels.attention`.

A tile holds the queries of some consecutive rows of one span, all query heads that share the key-value head,
and walks over the positions it may see with a running maximum and sum, so no row of scores is ever stored.

References: Dao, FlashAttention-2, ICLR 2024; Kwon et al., PagedAttention, SOSP 2023.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trimtab.kernels.torch_ops import TorchCache

BLOCK_QUERIES = 16  # the least that a matrix unit takes
BLOCK_KEYS = 32


@triton.jit
def _attend(
    q,
    out,
    keys,
    values,
    key_scales,
    value_scales,
    positions,
    tiles,
    pages,
    scale,
    softcap,
    window,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
    INT8: tl.constexpr,
):
    SHARED: tl.constexpr = HEADS // KV_HEADS
    kv_head = tl.program_id(1)
    first_row = tl.load(tiles + tl.program_id(0) * 3)
    last_row = tl.load(tiles + tl.program_id(0) * 3 + 1)
    first_page = tl.load(tiles + tl.program_id(0) * 3 + 2)

    query = tl.arange(0, QUERIES)
    row = first_row + query // SHARED
    head = kv_head * SHARED + query % SHARED
    held = row <= last_row
    dim = tl.arange(0, WIDTH)
    at = (row * HEADS + head)[:, None] * HEAD_DIM + dim[None, :]
    mask = held[:, None] & (dim < HEAD_DIM)[None, :]
    queries = tl.load(q + at, mask=mask, other=0.0)  # (queries, width)
    position = tl.load(positions + row, mask=held, other=0)

    high = tl.load(positions + last_row) + 1
    low = 0
    if WINDOWED:
        low = tl.maximum(tl.load(positions + first_row) - window + 1, 0) // KEYS * KEYS

    top = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    mixed = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(low, high, KEYS):
        seen = start + tl.arange(0, KEYS)
        page = tl.load(pages + first_page + seen // PAGE_TOKENS, mask=seen < high, other=0)
        place = (page * PAGE_TOKENS + seen % PAGE_TOKENS) * KV_HEADS + kv_head
        inside = (seen < high)[:, None] & (dim < HEAD_DIM)[None, :]
        key = tl.load(keys + place[:, None] * HEAD_DIM + dim[None, :], mask=inside, other=0.0)
        value = tl.load(values + place[:, None] * HEAD_DIM + dim[None, :], mask=inside, other=0.0)
        if INT8:
            key = key.to(tl.float32) * tl.load(key_scales + place, mask=seen < high, other=0.0)[:, None]
            value = value.to(tl.float32) * tl.load(value_scales + place, mask=seen < high, other=0.0)[:, None]
        scores = tl.dot(queries, tl.trans(key.to(queries.dtype)), input_precision="ieee") * scale
        if CAPPED:  # tanh(x) is 2 sigmoid(2 x) - 1
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
        visible = seen[None, :] <= position[:, None]
        if WINDOWED:
            visible = visible & (seen[None, :] > position[:, None] - window)
        scores = tl.where(visible, scores, float("-inf"))

        higher = tl.maximum(top, tl.max(scores, axis=1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet
        weight = tl.exp(scores - base[:, None])
        fade = tl.exp(top - base)
        total = total * fade + tl.sum(weight, axis=1)
        product = tl.dot(weight.to(queries.dtype), value.to(queries.dtype), input_precision="ieee")
        mixed = mixed * fade[:, None] + product
        top = higher
    result = mixed / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + at, result.to(out.dtype.element_ty), mask=mask)


def tile_rows(shared: int) -> int:
    """Rows of a span that one tile holds when this many query heads share a key-value head."""
    return max(1, BLOCK_QUERIES // shared)


def tiles_of(span_start: list[int], page_start: list[int], rows: int) -> list[tuple[int, int, int]]:
    """First row, last row and first entry in the page list of every tile."""
    return [
        (first, min(first + rows, stop) - 1, pages)
        for start, stop, pages in zip(span_start, span_start[1:], page_start, strict=False)
        for first in range(start, stop, rows)
    ]


def attend(
    q: Tensor,
    cache: TorchCache,
    layer: int,
    positions: Tensor,
    tiles: Tensor,
    pages: Tensor,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """Attention of every row. q (rows, heads head_dim); tiles (tiles, 3), see `tiles_of`; pages (all,)."""
    out = torch.empty_like(q)
    if tiles.shape[0] == 0:
        return out
    shared, int8 = heads // kv_heads, cache.kv_type == "int8"
    _attend[(tiles.shape[0], kv_heads)](
        q.contiguous(),
        out,
        cache.keys[layer],
        cache.values[layer],
        cache.key_scales[layer] if int8 else out,
        cache.value_scales[layer] if int8 else out,
        positions,
        tiles,
        pages,
        scale,
        softcap or 1.0,
        window,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        PAGE_TOKENS=cache.page_tokens,
        QUERIES=max(BLOCK_QUERIES, triton.next_power_of_2(tile_rows(shared) * shared)),
        KEYS=BLOCK_KEYS,
        WIDTH=max(16, triton.next_power_of_2(head_dim)),
        CAPPED=softcap > 0,
        WINDOWED=window > 0,
        INT8=int8,
    )
    return out
