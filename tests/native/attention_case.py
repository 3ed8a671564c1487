"""Attention by itself: a program whose logits are the attention's output, and the same in float64.

The program looks queries, keys and values up in a table, rotates, stores, attends, and passes the result
through a head that changes nothing: its norm divides by 2**20, its weights multiply by that, and its matrix is
the identity.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from packed import Doubles, Floats, as_bf16, matrix_of, unpacked

from trimtab import _native
from trimtab.kernels.native import NativeOps, compile_program
from trimtab.kernels.quantize import quantize_rows

PAGE = _native.PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class FixedRope:
    """Angles a position for each pair; the factor scales both sine and cosine."""

    dim: int
    angles: tuple[float, ...]
    factor: float = 1.0

    def frequencies(self, context: int) -> tuple[Floats, float]:
        return np.array(self.angles, np.float32), self.factor


def no_rope(head_dim: int) -> FixedRope:
    return FixedRope(head_dim, (0.0,) * (head_dim // 2))


@dataclass(frozen=True, slots=True)
class Attention:
    """Everything the operation depends on but the tokens."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: FixedRope
    window: int = 0
    softcap: float = 0.0
    kv_type: str = "f32"
    normed: bool = False
    eps: float = 1e-5

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def scale(self) -> float:
        return float(np.float32(self.head_dim**-0.5))

    def norms(self) -> tuple[Floats, Floats]:
        return tuple(np.random.default_rng(4).uniform(0.5, 1.5, (2, self.head_dim)).astype(np.float32))


def table_of(case: Attention, seed: int = 0) -> Any:
    """Queries, keys and values of each token, one row a token: (width, (heads + 2 kv_heads) head_dim)."""
    inputs = (case.heads + 2 * case.kv_heads) * case.head_dim
    return matrix_of("q8", np.random.default_rng(seed).normal(size=(case.width, inputs)))


class AttentionProgram:
    """The native side: `run` answers one batch with the attention output of every row."""

    def __init__(self, case: Attention, table: Any, kernels: str, threads: int = 1, pages: int = 64) -> None:
        pool, chosen = _native.Pool(threads), _native.choose_kernels(kernels)
        ops = NativeOps(context=1024)
        norms = case.norms() if case.normed else (None, None)
        sizes = {"heads": case.heads, "kv_heads": case.kv_heads, "head_dim": case.head_dim}
        q = ops.rope_store(
            ops.embed(table), 0, **sizes, rope=case.rope, q_norm=norms[0], k_norm=norms[1], eps=case.eps
        )
        out = ops.attend(q, 0, **sizes, scale=case.scale, window=case.window, softcap=case.softcap)
        identity = matrix_of("bf16", np.eye(case.width))
        ops.head(out, np.full(case.width, 2.0**20, np.float32), 2.0**40, identity)
        self._keep = (pool, table, identity)
        self.pool = pool
        self.width = case.width
        self.program = compile_program(
            ops, pool, chosen, kv_type=case.kv_type, layers=1, kv_heads=case.kv_heads,
            head_dim=case.head_dim, num_pages=pages, max_rows=256, max_wanted=256, vocab=case.width,
        )  # fmt: skip
        self.operations = ops.operations

    def run(self, spans: Sequence[tuple[Sequence[int], int, Sequence[int]]]) -> Floats:
        """Spans of (tokens, first position, pages) -> (rows, width)."""
        arrays = [
            [token for tokens, _, _ in spans for token in tokens],
            [first + i for tokens, first, _ in spans for i in range(len(tokens))],
            np.cumsum([0, *(len(tokens) for tokens, _, _ in spans)]),
            np.cumsum([0, *(len(pages) for _, _, pages in spans)]),
            [page for _, _, pages in spans for page in pages],
        ]
        rows = len(arrays[0])
        out = np.empty((rows, self.width), np.float32)
        self.program.logits(*(np.array(a, np.int32) for a in arrays), np.arange(rows, dtype=np.int32), out)
        return out


def exact(case: Attention, table: Any, tokens: Sequence[int]) -> tuple[Doubles, Doubles]:
    """The same in float64, with keys, values and queries rounded as the pages hold them.

    Returns
    -------
    output (tokens, width), and a bound of what float32 (and bfloat16 probabilities) may change of it
    """
    heads, kv_heads, dim = case.heads, case.kv_heads, case.head_dim
    rows = unpacked(table)[list(tokens)].reshape(len(tokens), heads + 2 * kv_heads, dim)
    q, k, v = (part.astype(np.float64) for part in np.split(rows, (heads, heads + kv_heads), axis=1))
    if case.normed:
        q, k = (
            x / np.sqrt((x**2).mean(-1, keepdims=True) + case.eps) * weight
            for x, weight in zip((q, k), case.norms(), strict=True)
        )
    q, k = rotated(q, case.rope), rotated(k, case.rope)
    q, k, v = (stored(x, case.kv_type) for x in (q, k, v))
    shared = heads // kv_heads
    k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
    scores = np.einsum("rhd,chd->hrc", q, k) * case.scale
    sizes = np.einsum("rhd,chd->hrc", np.abs(q), np.abs(k)) * case.scale
    if case.softcap:
        scores = case.softcap * np.tanh(scores / case.softcap)
    at = np.arange(len(tokens))
    seen = at <= at[:, None]
    if case.window:
        seen &= at > at[:, None] - case.window
    weights = np.exp(np.where(seen, scores, -np.inf) - np.where(seen, scores, -np.inf).max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("hrc,chd->rhd", weights, v)
    # A score errs by a rounding a product, plus those of rotation, norm and softcap; its weight by as much
    # again relatively, and the sum of weights likewise. bfloat16 rounds each weight by 2**-8 of itself.
    off = np.where(seen, sizes, 0).max(-1) * (dim + 16) * 2.0**-24 + case.softcap * 2.0**-21
    relative = 2 * off + 2.0**-20 + len(tokens) * 2.0**-24 + (2.0**-8 if case.kv_type == "bf16" else 0)
    spread = np.einsum("hrc,chd->rhd", weights, np.abs(v))
    bound = spread * relative.T[:, :, None]
    return out.reshape(len(tokens), -1), bound.reshape(len(tokens), -1)


def rotated(x: Doubles, rope: FixedRope) -> Doubles:
    """x (tokens, heads, head_dim), position i in row i."""
    frequencies, factor = rope.frequencies(0)
    angle = (np.arange(len(x), dtype=np.float32)[:, None] * frequencies).astype(np.float64)[:, None]
    cos, sin = np.cos(angle) * factor, np.sin(angle) * factor
    a, b, rest = np.split(x, (rope.dim // 2, rope.dim), axis=-1)
    return np.concatenate((a * cos - b * sin, b * cos + a * sin, rest), axis=-1)


def stored(x: Doubles, kv_type: str) -> Doubles:
    """What a page of this type gives back."""
    if kv_type == "bf16":
        return as_bf16(x).astype(np.float64)
    if kv_type == "int8":
        q, scale = quantize_rows(torch.tensor(x.astype(np.float32)).flatten(0, 1))
        return (q.numpy().astype(np.float64) * scale.numpy().astype(np.float64)).reshape(x.shape)
    return x


def scattered(count: int, seed: int = 0, among: int = 64) -> list[int]:
    """Pages in no order."""
    return [int(page) for page in np.random.default_rng(seed).permutation(among)[:count]]
