"""The native runner's roundings, spelled out in torch: packed weights, rounded activations, rounded queries.

What is left between this and the native runner is float32 arithmetic, and the rare activation that lies so
close to the middle of two steps that the two sides round it differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tiny import num_pages_for, run_in_chunks
from torch import Tensor

from trimtab import _native
from trimtab.engine.batch import PAGE_TOKENS, Batch
from trimtab.formats.source import open_source
from trimtab.kernels import gated, head, linear, norm
from trimtab.kernels.ops import Rows
from trimtab.kernels.quantize import quantize_rows
from trimtab.kernels.torch_ops import KvType, TorchCache, TorchOps
from trimtab.models import forward
from trimtab.models.config import config_from
from trimtab.models.packing import NativeMaker
from trimtab.models.weights import load_weights

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A packed matrix read back, (outputs, inputs), and the form in which it wants its activations."""

    weight: Tensor
    form: str

    def rounded(self, x: Tensor) -> Tensor:
        if self.form == "wide":
            return x
        padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % 32))
        q, scale = quantize_rows(padded, 32 if self.form == "grouped" else 0)
        groups = q.float().unflatten(-1, (scale.shape[-1], -1)) * scale[..., None]
        return groups.flatten(-2)[..., : x.shape[-1]]


class PackedMaker:
    """`Maker` that packs as the native runner does and reads the result back into torch."""

    def __init__(self, source: Any, format: str) -> None:
        self._native = NativeMaker(source, _native.Pool(1), format)

    def matrix(self, *parts: Rows, gated: bool = False) -> PackedWeight:
        packed = self._native.matrix(*parts, gated=gated)
        out = np.empty((packed.rows * (2 if gated else 1), packed.inputs), np.float32)
        packed.unpack(0, out, _native.choose_kernels(""))
        return PackedWeight(torch.from_numpy(out), packed.form[0])

    def vector(self, *parts: Rows, offset: float = 0.0) -> Tensor:
        return torch.from_numpy(self._native.vector(*parts, offset=offset))


class RoundedOps(TorchOps):
    """`TorchOps` over `PackedWeight`."""

    def embed(self, table: PackedWeight, *, scale: float = 1.0) -> Tensor:
        return table.weight[self.tokens] * scale

    def linear(
        self, x: Tensor, matrix: PackedWeight, *, bias: Tensor | None = None, add: Tensor | None = None
    ) -> Tensor:
        return linear.reference(matrix.rounded(x), matrix.weight, bias, add)

    def gated(self, x: Tensor, matrix: PackedWeight, activation: str) -> Tensor:
        return gated.reference(matrix.rounded(x), matrix.weight, activation)

    def attend(self, q: Tensor, layer: int, *, heads: int, **more: Any) -> Tensor:
        if self.cache.kv_type == "bf16":
            return self._attend_bf16(q.bfloat16().float().unflatten(-1, (heads, -1)), layer, **more)
        if self.cache.kv_type == "int8":
            rounded, scale = quantize_rows(q, q.shape[-1] // heads)
            q = (rounded.float().unflatten(-1, (heads, -1)) * scale[..., None]).flatten(-2)
        return super().attend(q, layer, heads=heads, **more)

    def _attend_bf16(
        self,
        q: Tensor,
        layer: int,
        *,
        kv_heads: int,
        head_dim: int,
        scale: float,
        window: int,
        softcap: float = 0.0,
    ) -> Tensor:
        """Probabilities rounded to bfloat16, then summed; right up to 64 positions, a block of the kernel."""
        out = torch.empty_like(q)
        for rows, slots in zip(self.spans, self.context_slots, strict=True):
            k, v = (x.repeat_interleave(q.shape[1] // kv_heads, dim=1) for x in self.cache.read(layer, slots))
            scores = head.cap(torch.einsum("rhd,chd->hrc", q[rows], k) * scale, softcap)
            at, here = torch.arange(len(slots)), self.positions[rows, None]
            unseen = (at > here) | (at <= here - (window or len(slots)))
            scores = scores.masked_fill(unseen, float("-inf"))
            weights = (scores - scores.amax(-1, keepdim=True)).exp().bfloat16().float()
            out[rows] = torch.einsum("hrc,chd->rhd", weights / weights.sum(-1, keepdim=True), v)
        return out.flatten(1)

    def head(
        self, x: Tensor, norm_weight: Tensor, eps: float, matrix: PackedWeight, *, softcap: float = 0.0
    ) -> Tensor:
        h = norm.reference(x[self.wanted], norm_weight, eps)
        return head.cap(matrix.rounded(h) @ matrix.weight.T, softcap)


@torch.inference_mode()
def rounded_logits(
    path: Path, sequences: Sequence[Sequence[int]], format: str = "auto", kv_type: KvType = "f32"
) -> list[Floats]:
    """Logits of every position of every sequence, (tokens, vocab) each."""
    source = open_source(path)
    config = config_from(source)
    weights = load_weights(source, config, PackedMaker(source, format))
    cache = TorchCache(
        layers=config.layers,
        num_pages=num_pages_for(sequences),
        page_tokens=PAGE_TOKENS,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        kv_type=kv_type,
    )

    def logits(batch: Batch) -> Floats:
        ops = RoundedOps(batch, cache, context=max(map(len, sequences)))
        return np.asarray(forward(ops, config, weights).numpy(), np.float32)

    try:
        return run_in_chunks(logits, sequences, [[len(sequence)] for sequence in sequences])
    finally:
        source.close()
