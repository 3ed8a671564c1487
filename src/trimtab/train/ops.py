"""The operation names with gradients: `models` run unchanged over whole sequences.

There are no pages: a step's rows are `batch` sequences of equal length, and a layer's keys and values live as
long as its gradient needs them. Every operation runs under the name of its module, so that a profiler can say
where the time went.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import record_function

from trimtab.kernels import attention, gated, head, norm, rope
from trimtab.kernels.ops import RopeLike

Attention = Literal["eager", "fused"]


class TrainOps:
    """`Ops` over `tokens` (batch, length) int64.

    Parameters
    ----------
    names : module name of each matrix and vector, by identity
    dtype : what is multiplied; the residual stream and all norms are float32
    attention : `eager` makes the whole matrix of scores, `fused` none (FlashAttention, arXiv 2205.14135)
    """

    def __init__(
        self,
        tokens: Tensor,
        names: Mapping[int, str],
        *,
        dtype: torch.dtype = torch.float32,
        attention: Attention = "fused",
    ) -> None:
        self.tokens, self.names, self.dtype, self.attention = tokens, names, dtype, attention
        self.batch, self.length = tokens.shape
        with record_function("embed"):
            self.positions = torch.arange(self.length).repeat(self.batch)  # (rows,)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def embed(self, table: Any, *, scale: float = 1.0) -> Tensor:
        with record_function(self._name(table)):
            return table.rows(self.tokens.flatten()).float() * scale

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        with record_function(self._name(weight)):
            return norm.reference(x.float(), weight, eps).to(self.dtype)

    def linear(
        self, x: Tensor, matrix: Any, *, bias: Tensor | None = None, add: Tensor | None = None
    ) -> Tensor:
        with record_function(self._name(matrix)):
            y: Tensor = matrix(x)
            if bias is not None:
                y = y + bias.to(y.dtype)
            return y if add is None else add + y.float()

    def gated(self, x: Tensor, matrix: Any, activation: str) -> Tensor:
        with record_function(self._name(matrix)):
            y = matrix(x)
        with record_function(self._name(matrix, "activation")):
            return gated.combine(y, activation)

    def rope_store(
        self, qkv: Tensor, layer: int, *, heads: int, kv_heads: int, head_dim: int, rope: RopeLike,
        q_norm: Tensor | None = None, k_norm: Tensor | None = None, eps: float = 0.0,
    ) -> Tensor:  # fmt: skip
        with record_function(self._layer(layer, "rope")):
            q, k, v = qkv.float().unflatten(-1, (-1, head_dim)).split((heads, kv_heads, kv_heads), dim=1)
            if q_norm is not None:
                q = norm.reference(q, q_norm, eps)
            if k_norm is not None:
                k = norm.reference(k, k_norm, eps)
            q, k = (self._rotate(x, rope) for x in (q, k))
            self._kept[layer] = k.to(self.dtype), v.to(self.dtype)
            return q.flatten(1).to(self.dtype)

    def attend(
        self, q: Tensor, layer: int, *, heads: int, kv_heads: int, head_dim: int, scale: float,
        window: int = 0, softcap: float = 0.0,
    ) -> Tensor:  # fmt: skip
        keys, values = self._kept.pop(layer)
        with record_function(self._layer(layer, "attention")):
            if self.attention == "fused" and not window and not softcap:
                q, keys, values = (
                    x.view(self.batch, self.length, -1, head_dim).transpose(1, 2) for x in (q, keys, values)
                )
                shared = heads // kv_heads
                mixed = functional.scaled_dot_product_attention(
                    q, keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1),
                    is_causal=True, scale=scale,
                )  # fmt: skip
                return mixed.transpose(1, 2).reshape(self.batch * self.length, heads * head_dim)
            at = self.positions[: self.length]
            mixed = torch.cat([
                attention.reference(one, k, v, at, scale, window, softcap)
                for one, k, v in zip(
                    q.view(self.batch, self.length, heads, head_dim), keys.split(self.length),
                    values.split(self.length), strict=True,
                )
            ])  # fmt: skip
            return mixed.flatten(1)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x.float() + y.float()

    def head(self, x: Tensor, weight: Tensor, eps: float, matrix: Any, *, softcap: float = 0.0) -> Tensor:
        with record_function("final_norm"):
            h = norm.reference(x, weight, eps).to(self.dtype)
        with record_function("head"):
            return head.cap(matrix(h).float(), softcap)

    def _name(self, what: nn.Module | Tensor, part: str = "") -> str:
        name = self.names.get(id(what), "unnamed")
        return f"{name}.{part}" if part else name

    def _layer(self, layer: int, part: str) -> str:
        return f"layers.{layer}.{part}"

    def _rotate(self, x: Tensor, settings: RopeLike) -> Tensor:
        frequencies, factor = settings.frequencies(self.length)
        return rope.reference(x, self.positions, torch.from_numpy(frequencies), factor)


class BlockOps(TrainOps):
    """The operations of one layer as a model of its own: its embedding is what comes in, its head nothing.

    So any architecture can be cut between its layers, and computed again there.
    """

    def __init__(self, base: TrainOps, x: Tensor, layer: int) -> None:
        self.__dict__.update(base.__dict__)
        self._x, self._index, self._kept = x, layer, {}

    def embed(self, table: Any, *, scale: float = 1.0) -> Tensor:
        return self._x

    def head(self, x: Tensor, weight: Tensor, eps: float, matrix: Any, *, softcap: float = 0.0) -> Tensor:
        return x

    def _layer(self, layer: int, part: str) -> str:
        return f"layers.{self._index}.{part}"
