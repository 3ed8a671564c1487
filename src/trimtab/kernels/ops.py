"""The operation names a model is written in.

A model is a plain Python function over these names. Run with `TorchOps` it computes at once (reference, GPU,
training); run with `NativeOps` the same function is recorded into a native program that a serving process
replays in one call a step. Values, matrices and vectors are opaque to models: each backend brings its own.

This module knows no tensor library; it is imported by the serving path and must stay light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

# What a backend hands out; a model only passes them on.
Value = Any
Matrix = Any
Vector = Any


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one checkpoint tensor: `tensor[start:stop][order]`.

    Parameters
    ----------
    name : tensor name in the checkpoint
    start, stop : row range; `stop=None` is the end
    order : permutation inside the range, int64 (rows,), or None
    """

    name: str
    start: int = 0
    stop: int | None = None
    order: npt.NDArray[np.int64] | None = None


class RopeLike(Protocol):
    """What the rotary embedding must tell a backend; `models.config.Rope` is one."""

    @property
    def dim(self) -> int: ...

    def frequencies(self, context: int) -> tuple[npt.NDArray[np.float32], float]: ...


class Maker(Protocol):
    """Turns checkpoint tensors into what a backend multiplies with."""

    def matrix(self, *parts: Rows, gated: bool = False) -> Matrix:
        """Stack the parts' rows into one weight matrix (rows, inputs).

        With `gated`, exactly two parts of equal size: the gate and the up projection of one `Ops.gated`.
        """
        ...

    def vector(self, *parts: Rows, offset: float = 0.0) -> Vector:
        """Concatenate one-dimensional tensors as float32, plus `offset` (Gemma stores norm weights less 1)."""  # noqa: E501
        ...


class Ops(Protocol):
    """One backend. Rows are the tokens of the step's batch, all spans flattened in order."""

    def embed(self, table: Matrix, *, scale: float = 1.0) -> Value:
        """The batch's tokens -> (rows, hidden), float32."""
        ...

    def norm(self, x: Value, weight: Vector, eps: float) -> Value:
        """RMS norm over the last axis."""
        ...

    def linear(
        self, x: Value, matrix: Matrix, *, bias: Vector | None = None, add: Value | None = None
    ) -> Value:
        """`x @ W.T + bias + add`."""
        ...

    def gated(self, x: Value, matrix: Matrix, activation: str) -> Value:
        """`act(x @ gate.T) * (x @ up.T)` of a matrix made with `gated=True`; act is `silu` or `gelu_tanh`."""
        ...

    def rope_store(
        self,
        qkv: Value,
        layer: int,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        rope: RopeLike,
        q_norm: Vector | None = None,
        k_norm: Vector | None = None,
        eps: float = 0.0,
    ) -> Value:
        """(rows, (heads + 2 kv_heads) head_dim) -> rotated queries; keys and values go into the pages.

        With `q_norm` and `k_norm` every head is RMS-normed before the rotation (Qwen3, Gemma 3).
        """
        ...

    def attend(
        self,
        q: Value,
        layer: int,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
    ) -> Value:
        """Causal attention of every row over its sequence's pages -> (rows, heads head_dim).

        A row at position p sees positions p - window + 1 .. p when `window` > 0.
        """
        ...

    def add(self, x: Value, y: Value) -> Value:
        """`x + y`."""
        ...

    def head(self, x: Value, norm: Vector, eps: float, matrix: Matrix, *, softcap: float = 0.0) -> Value:
        """Final norm and vocabulary projection of the rows the batch wants logits of -> (wanted, vocab)."""
        ...
