"""The operation names on a GPU: Triton kernels where torch would take several passes, cuBLAS for the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.kernels import head as head_reference
from trimtab.kernels.ops import RopeLike
from trimtab.kernels.torch_ops import BatchLike, TorchCache, TorchMatrix, TorchOps
from trimtab.kernels.triton import attention, gated, linear, norm
from trimtab.kernels.triton.rope import rope_store


class TritonOps(TorchOps):
    """`TorchOps` with its own norm, rotation and KV write, attention, activation and rounded products."""

    def __init__(
        self, batch: BatchLike, cache: TorchCache, *, context: int, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(batch, cache, context=context, dtype=dtype)
        self.page_list = self._index(batch.pages)
        self._span_start, self._page_start = batch.span_start.tolist(), batch.page_start.tolist()
        self._tiles: dict[int, Tensor] = {}  # by rows a tile, which hangs on the model's head groups alone

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return norm.rms_norm(x, weight, eps, self.dtype)

    def linear(
        self, x: Tensor, matrix: TorchMatrix, *, bias: Tensor | None = None, add: Tensor | None = None
    ) -> Tensor:
        if isinstance(matrix, Tensor):
            return super().linear(x, matrix, bias=bias, add=add)
        return linear.linear(x, matrix, bias, add)

    def gated(self, x: Tensor, matrix: TorchMatrix, activation: str) -> Tensor:
        return gated.combine(self.linear(x, matrix), activation)

    def rope_store(
        self,
        qkv: Tensor,
        layer: int,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        rope: RopeLike,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        return rope_store(
            qkv,
            self.cache,
            layer,
            self.positions,
            self.slots,
            *self.frequencies(rope),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            q_norm=q_norm,
            k_norm=k_norm,
            eps=eps,
            dtype=self.dtype,
        )

    def attend(
        self,
        q: Tensor,
        layer: int,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
    ) -> Tensor:
        return attention.attend(
            q,
            self.cache,
            layer,
            self.positions,
            self._tiles_of(attention.tile_rows(heads // kv_heads)),
            self.page_list,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=scale,
            window=window,
            softcap=softcap,
        )

    def head(
        self, x: Tensor, norm: Tensor, eps: float, matrix: TorchMatrix, *, softcap: float = 0.0
    ) -> Tensor:
        if isinstance(matrix, Tensor):
            return super().head(x, norm, eps, matrix, softcap=softcap)
        self.keep_hidden(x, norm, eps)
        h = self.norm(x[self.wanted], norm, eps)
        return head_reference.cap(linear.linear(h, matrix, dtype=torch.float32), softcap)

    def _tiles_of(self, rows: int) -> Tensor:
        if rows not in self._tiles:
            tiles = attention.tiles_of(self._span_start, self._page_start, rows)
            self._tiles[rows] = torch.tensor(tiles, dtype=torch.int64, device=self.device).view(-1, 3)
        return self._tiles[rows]
