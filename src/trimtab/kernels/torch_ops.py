"""The operation names, computed at once with torch: the reference, the GPU path, later the training path.

Owns the paged cache of keys and values as torch tensors and the translation of a batch into indices. Which
sequences run, and who owns which page, was decided above; this module only follows the page numbers.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trimtab.kernels import attention, embed, gated, head, linear, norm, quantize, rope
from trimtab.kernels.ops import RopeLike, Rows
from trimtab.kernels.quantize import GroupMatrix, Int8Matrix

TorchMatrix: TypeAlias = Tensor | Int8Matrix | GroupMatrix
WeightFormat: TypeAlias = Literal["auto", "float", "int8", "int4"]
KvType: TypeAlias = Literal["f32", "bf16", "f16", "int8"]

KV_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "int8": torch.int8}


class BatchLike(Protocol):
    """The part of `trimtab.engine.batch.Batch` that arithmetic needs."""

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    span_start: npt.NDArray[np.int32]
    page_start: npt.NDArray[np.int32]
    pages: npt.NDArray[np.int32]
    wanted: npt.NDArray[np.int32]
    hidden: npt.NDArray[np.int32] | None


class SourceLike(Protocol):
    """The part of `trimtab.formats.source.TensorSource` that weights are made from."""

    def info(self, name: str) -> Any: ...
    def raw(self, name: str) -> npt.NDArray[np.uint8]: ...
    def dequantized(self, name: str) -> npt.NDArray[np.float32]: ...
    def release(self, name: str) -> None: ...


class TorchCache:
    """Keys and values of every layer; slot `page * page_tokens + offset` holds one position of one sequence.

    With `kv_type="int8"` each head of a position has its own scale, as in the native pages.
    """

    def __init__(
        self,
        *,
        layers: int,
        num_pages: int,
        page_tokens: int,
        kv_heads: int,
        head_dim: int,
        kv_type: KvType = "f32",
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (layers, num_pages * page_tokens, kv_heads)
        self.page_tokens, self.num_pages, self.kv_type = page_tokens, num_pages, kv_type
        self.keys = torch.zeros(*shape, head_dim, dtype=KV_TYPES[kv_type], device=device)
        self.values = torch.zeros_like(self.keys)
        scaled = shape if kv_type == "int8" else (0, 0, 0)
        self.key_scales = torch.zeros(scaled, device=device)
        self.value_scales = torch.zeros(scaled, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages."""
        return sum(t.nbytes for t in (self.keys, self.values, self.key_scales, self.value_scales))

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """slots (rows,); keys, values (rows, kv_heads, head_dim) float32."""
        if self.kv_type == "int8":
            for new, pages, scales in (
                (keys, self.keys, self.key_scales),
                (values, self.values, self.value_scales),
            ):
                q, scale = quantize.quantize_rows(new.flatten(0, 1))
                pages[layer, slots] = q.view(new.shape)
                scales[layer, slots] = scale.view(new.shape[:2])
        else:
            self.keys[layer, slots] = keys.to(self.keys.dtype)
            self.values[layer, slots] = values.to(self.values.dtype)

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the slots, (len(slots), kv_heads, head_dim) float32."""
        keys, values = self.keys[layer, slots].float(), self.values[layer, slots].float()
        if self.kv_type == "int8":
            keys = keys * self.key_scales[layer, slots, :, None]
            values = values * self.value_scales[layer, slots, :, None]
        return keys, values


class TorchOps:
    """`Ops` over one batch. The residual stream is float32; what is multiplied has `dtype`.

    Parameters
    ----------
    context : positions the engine was started with, by which some rope scalings choose
    """

    def __init__(
        self, batch: BatchLike, cache: TorchCache, *, context: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.cache, self.context, self.dtype = cache, context, dtype
        self.device = cache.keys.device
        self._frequencies: dict[int, tuple[Tensor, float]] = {}
        self.tokens = self._index(batch.tokens)  # (rows,)
        self.positions = self._index(batch.positions)
        self.wanted = self._index(batch.wanted)
        self.hidden: Tensor | None = None  # (hidden rows, width) float32, once the head has run
        self._hidden_rows = None if batch.hidden is None else self._index(batch.hidden)
        self.spans = [slice(a, b) for a, b in zip(batch.span_start, batch.span_start[1:], strict=False)]
        seen = [_slots(batch, span, cache.page_tokens) for span in range(len(self.spans))]
        written = [s[batch.positions[rows]] for s, rows in zip(seen, self.spans, strict=True)]
        self.context_slots = [self._index(slots) for slots in seen]  # per span: slot of each position so far
        self.slots = self._index(np.concatenate([np.empty(0, np.int64), *written]))  # (rows,)

    def embed(self, table: TorchMatrix, *, scale: float = 1.0) -> Tensor:
        if isinstance(table, Tensor):
            return embed.reference(self.tokens, table, scale)
        return table.rows(self.tokens) * scale

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return norm.reference(x.float(), weight, eps).to(self.dtype)

    def linear(
        self, x: Tensor, matrix: TorchMatrix, *, bias: Tensor | None = None, add: Tensor | None = None
    ) -> Tensor:
        return linear.reference(x, self._weight(matrix), bias, add)

    def gated(self, x: Tensor, matrix: TorchMatrix, activation: str) -> Tensor:
        return gated.reference(x, self._weight(matrix), activation)

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
        every = qkv.float().unflatten(-1, (-1, head_dim))  # (rows, heads + 2 kv_heads, head_dim)
        q, k, v = every.split((heads, kv_heads, kv_heads), dim=1)
        if q_norm is not None:
            q = norm.reference(q, q_norm, eps)
        if k_norm is not None:
            k = norm.reference(k, k_norm, eps)
        q, k = (self._rotate(x, rope) for x in (q, k))
        self.cache.write(layer, self.slots, k, v)
        return q.flatten(1).to(self.dtype)  # (rows, heads head_dim)

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
        q = q.view(-1, heads, head_dim)
        result = torch.empty_like(q)
        for rows, slots in zip(self.spans, self.context_slots, strict=True):
            keys, values = self.cache.read(layer, slots)
            result[rows] = attention.reference(
                q[rows], keys, values, self.positions[rows], scale, window, softcap
            )
        return result.flatten(1)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x.float() + y.float()

    def head(
        self, x: Tensor, norm: Tensor, eps: float, matrix: TorchMatrix, *, softcap: float = 0.0
    ) -> Tensor:
        self.keep_hidden(x, norm, eps)
        return head.reference(x[self.wanted], norm, eps, self._weight(matrix), softcap)

    def keep_hidden(self, x: Tensor, weight: Tensor, eps: float) -> None:
        """Norm the rows whose hidden states the batch asks for."""
        if self._hidden_rows is not None:
            self.hidden = norm.reference(x[self._hidden_rows].float(), weight, eps)

    def frequencies(self, rope: RopeLike) -> tuple[Tensor, float]:
        """Angle per position of each pair and the factor, worked out once a step."""
        if id(rope) not in self._frequencies:
            frequencies, factor = rope.frequencies(self.context)
            self._frequencies[id(rope)] = torch.tensor(frequencies, device=self.device), factor
        return self._frequencies[id(rope)]

    def _rotate(self, x: Tensor, rope_settings: RopeLike) -> Tensor:
        frequencies, factor = self.frequencies(rope_settings)
        return rope.reference(x, self.positions, frequencies, factor)

    def _weight(self, matrix: TorchMatrix) -> Tensor:
        return matrix if isinstance(matrix, Tensor) else matrix.rows(slice(None)).to(self.dtype)

    def _index(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.tensor(array, dtype=torch.int64, device=self.device)


class TorchMaker:
    """`Maker` of torch tensors.

    Parameters
    ----------
    dtype : of matrices that stay floating point
    weights : `float` dequantises everything; `auto` keeps the 4-bit blocks of GGUF files and dequantises the
        rest; `int8` and `int4` round every matrix (the embedding too)
    """

    def __init__(
        self,
        source: SourceLike,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        weights: WeightFormat = "float",
    ) -> None:
        self.source, self.dtype, self.device, self.weights = source, dtype, device, weights
        self.nbytes = 0

    def matrix(self, *parts: Rows, gated: bool = False) -> TorchMatrix:
        made = self._quantized(parts)
        if made is None:
            made = torch.cat([self._floats(part).to(self.dtype) for part in parts]).to(self.device)
        for part in parts:
            self.source.release(part.name)
        self.nbytes += made.nbytes
        return made

    def vector(self, *parts: Rows, offset: float = 0.0) -> Tensor:
        made = (torch.cat([self._floats(part) for part in parts]) + offset).to(self.device)
        self.nbytes += made.nbytes
        return made

    def _floats(self, part: Rows) -> Tensor:
        array = self.source.dequantized(part.name)[part.start : part.stop]
        return torch.tensor(array if part.order is None else array[part.order])

    def _quantized(self, parts: tuple[Rows, ...]) -> Int8Matrix | GroupMatrix | None:
        form = _format_of(self.source, parts, self.weights)
        if form == "int8":
            q, scale = quantize.quantize_rows(torch.cat([self._floats(part) for part in parts]))
            return Int8Matrix(q.to(self.device), scale.squeeze(-1).to(self.device))
        if form == "int4":
            blocks = [self._blocks(part) for part in parts]
            return GroupMatrix(
                torch.cat([block.pairs for block in blocks]).to(self.device),
                torch.cat([block.scale for block in blocks]).to(self.device),
                torch.cat([block.minimum for block in blocks]).to(self.device),
            )
        return None

    def _blocks(self, part: Rows) -> GroupMatrix:
        info = self.source.info(part.name)
        if info.dtype not in ("Q4_0", "Q4_1"):
            q, scale, minimum = quantize.quantize_groups(self._floats(part))
            return GroupMatrix(quantize.pack_pairs(q), scale, minimum)
        whole = quantize.matrix_from_blocks(self.source.raw(part.name), info.dtype, *info.shape)
        rows = torch.arange(info.shape[0])[part.start : part.stop]
        if part.order is not None:
            rows = rows[torch.from_numpy(part.order)]
        return GroupMatrix(whole.pairs[rows], whole.scale[rows], whole.minimum[rows])


class SizingMaker:
    """`Maker` that only adds up the bytes a `TorchMaker` of the same settings would hold."""

    def __init__(
        self, source: SourceLike, *, dtype: torch.dtype = torch.float32, weights: WeightFormat = "float"
    ) -> None:
        self.source, self.dtype, self.weights = source, dtype, weights
        self.nbytes = 0

    def matrix(self, *parts: Rows, gated: bool = False) -> None:
        inputs = self.source.info(parts[0].name).shape[1]
        match _format_of(self.source, parts, self.weights):
            case "int8":
                row_bytes = inputs + 4
            case "int4":
                row_bytes = inputs // 2 + inputs // quantize.GROUP * 8
            case _:
                row_bytes = inputs * self.dtype.itemsize
        self.nbytes += self._count(parts) * row_bytes

    def vector(self, *parts: Rows, offset: float = 0.0) -> None:
        self.nbytes += self._count(parts) * 4

    def _count(self, parts: tuple[Rows, ...]) -> int:
        return sum(len(range(self.source.info(p.name).shape[0])[p.start : p.stop]) for p in parts)


def _format_of(source: SourceLike, parts: tuple[Rows, ...], weights: WeightFormat) -> WeightFormat:
    """How a matrix is held: `float`, `int8` or `int4`."""
    if weights != "auto":
        return weights
    kept = {source.info(part.name).dtype for part in parts} <= {"Q4_0", "Q4_1"}
    return "int4" if kept else "float"


def _slots(batch: BatchLike, span: int, page_tokens: int) -> npt.NDArray[np.int64]:
    """Slot of every position of a span's sequence, up to its last row."""
    length = int(batch.positions[batch.span_start[span + 1] - 1]) + 1
    pages = batch.pages[batch.page_start[span] : batch.page_start[span + 1]].astype(np.int64)
    return (pages[:, None] * page_tokens + np.arange(page_tokens)).reshape(-1)[:length]
