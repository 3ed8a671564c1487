"""The runner on any torch device: GPUs, and the reference for the native one on CPUs.

Not on the serving path of a CPU: importing this module imports torch.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trimtab.engine.batch import PAGE_TOKENS, Batch, StepResult
from trimtab.engine.sampling import sample_reference
from trimtab.errors import UsageError
from trimtab.formats.source import TensorSource
from trimtab.kernels.torch_ops import (
    KV_TYPES,
    KvType,
    SizingMaker,
    TorchCache,
    TorchMaker,
    TorchOps,
    WeightFormat,
)
from trimtab.models import forward
from trimtab.models.config import ModelConfig
from trimtab.models.weights import ModelWeights, load_weights

FloatType = Literal["f32", "bf16", "f16"]
FLOAT_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class TorchRunner:
    """Runs batches eagerly. Make one with `TorchRunner.open`.

    Parameters
    ----------
    context : longest sequence, by which some rope scalings choose
    kernels : `torch` for the references, `triton` for the GPU's own kernels
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        *,
        weight_bytes: int,
        num_pages: int,
        max_rows: int,
        max_wanted: int,
        context: int,
        device: torch.device | str = "cpu",
        dtype: FloatType = "f32",
        kv_type: KvType = "f32",
        kernels: Literal["torch", "triton"] = "torch",
    ) -> None:
        self.config, self.weights = config, weights
        self.num_pages, self.max_rows, self.max_wanted, self.context = (
            num_pages,
            max_rows,
            max_wanted,
            context,
        )
        self.device, self.dtype = torch.device(device), FLOAT_TYPES[dtype]
        self.cache = TorchCache(
            layers=config.layers,
            num_pages=num_pages,
            page_tokens=PAGE_TOKENS,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            kv_type=kv_type,
            device=self.device,
        )
        self._ops: type[TorchOps] = TorchOps
        if kernels == "triton":
            from trimtab.kernels.triton import TritonOps

            self._ops = TritonOps
        scratch = max_wanted * config.vocab_size * 4  # the logits; torch's own allocator holds the rest
        self.memory = {"weights": weight_bytes, "pages": self.cache.nbytes, "scratch": scratch}

    @classmethod
    def open(
        cls,
        source: TensorSource,
        config: ModelConfig,
        *,
        num_pages: int,
        max_rows: int = 512,
        max_wanted: int = 64,
        context: int | None = None,
        device: torch.device | str | None = None,
        dtype: FloatType | None = None,
        kv_type: KvType | None = None,
        format: WeightFormat = "auto",
        kernels: Literal["auto", "torch", "triton"] = "auto",
    ) -> Self:
        """Load a model's weights onto a device.

        Parameters
        ----------
        device : a torch device; by default the GPU when there is one
        dtype : what is multiplied; by default bf16 on a GPU and f32 on a CPU
        kv_type : type of keys and values; by default the dtype
        format : `float` weights, `int8`, `int4`, or `auto` (4-bit blocks stay, the rest is float)
        kernels : `auto` takes Triton on a GPU

        Raises
        ------
        UsageError : the device is not there
        """
        place = _device(device)
        on_gpu = place.type == "cuda"
        dtype = dtype or ("bf16" if on_gpu else "f32")
        if kernels == "auto":
            kernels = "triton" if on_gpu else "torch"
        maker = TorchMaker(source, dtype=FLOAT_TYPES[dtype], device=place, weights=format)
        weights = load_weights(source, config, maker)
        return cls(
            config,
            weights,
            weight_bytes=maker.nbytes,
            num_pages=num_pages,
            max_rows=max_rows,
            max_wanted=max_wanted,
            context=context or config.context,
            device=place,
            dtype=dtype,
            kv_type=kv_type or dtype,
            kernels=kernels,
        )

    @staticmethod
    def sizes(
        source: TensorSource,
        config: ModelConfig,
        *,
        max_wanted: int = 64,
        dtype: FloatType = "f32",
        kv_type: KvType | None = None,
        format: WeightFormat = "auto",
    ) -> dict[str, int]:
        """Bytes that `open` would take for `weights`, `scratch` and one `page`, without reading weights."""
        maker = SizingMaker(source, dtype=FLOAT_TYPES[dtype], weights=format)
        load_weights(source, config, maker)
        kv = kv_type or dtype
        head = config.head_dim * KV_TYPES[kv].itemsize + (4 if kv == "int8" else 0)
        page = 2 * config.layers * PAGE_TOKENS * config.kv_heads * head
        return {"weights": maker.nbytes, "scratch": max_wanted * config.vocab_size * 4, "page": page}

    def step(self, batch: Batch) -> StepResult:
        """Run the batch and choose or score a token for every wanted row."""
        logits, hidden = self._run(batch)
        result = sample(logits, batch)
        if hidden is not None:
            result.hidden = np.asarray(hidden.cpu().numpy(), np.float32)
        return result

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Logits of the wanted rows, (R, vocab)."""
        return np.asarray(self._run(batch)[0].cpu().numpy(), np.float32)

    def close(self) -> None:
        """Let go of weights and pages."""
        del self.weights, self.cache

    def _run(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Logits of the wanted rows, and the hidden states the batch asks for."""
        if len(batch.tokens) > self.max_rows or len(batch.wanted) > self.max_wanted:
            raise ValueError(
                f"a batch of {len(batch.tokens)} rows, {len(batch.wanted)} wanted; "
                f"this runner takes {self.max_rows} and {self.max_wanted}"
            )
        with torch.inference_mode():
            ops = self._ops(batch, self.cache, context=self.context, dtype=self.dtype)
            logits: Tensor = forward(ops, self.config, self.weights)
        return logits, ops.hidden


def sample(logits: Tensor, batch: Batch) -> StepResult:
    """Tokens of the wanted rows: plain greedy ones together on the device, the others one by one.

    logits (R, vocab) float32 on any device; the others leave it, and equal `sample_reference` by being it.
    """
    rows = batch.sampling
    count, width = len(batch.wanted), max(0, int(rows["top_logprobs"].max(initial=0)))
    result = StepResult(
        tokens=np.zeros(count, np.int32),
        logprobs=np.full(count, np.nan, np.float32),
        top_tokens=np.full((count, width), -1, np.int32),
        top_logprobs=np.full((count, width), -np.inf, np.float32),
    )
    plain = _plain(batch)
    if plain.any():
        chosen = logits[torch.tensor(np.flatnonzero(plain), device=logits.device)]
        chosen = chosen.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        result.tokens[plain] = chosen.argmax(dim=-1).cpu().numpy()  # the first of equals
    others = np.flatnonzero(~plain)
    if others.size:
        held = logits[torch.tensor(others, device=logits.device)].float().cpu().numpy()
        for row, values in zip(others, held, strict=True):
            adjust = batch.adjust[batch.adjust_start[row] : batch.adjust_start[row + 1]]
            which = int(rows[row]["mask"])
            mask = batch.mask[which - 1] if which and batch.mask is not None else None
            found = sample_reference(values, rows[row], adjust, mask, width)
            result.tokens[row], result.logprobs[row] = found.token, found.logprob
            result.top_tokens[row], result.top_logprobs[row] = found.top_tokens, found.top_logprobs
    return result


def _plain(batch: Batch) -> npt.NDArray[np.bool_]:
    """Rows whose answer is the highest logit and nothing else."""
    rows: Any = batch.sampling
    untouched = np.diff(batch.adjust_start) == 0
    plain: npt.NDArray[np.bool_] = untouched & (
        (rows["temperature"] <= 0) & (rows["score"] < 0) & (rows["top_logprobs"] < 0) & (rows["mask"] == 0)
    )
    return plain


def _device(wanted: torch.device | str | None) -> torch.device:
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UsageError(f"no device `{wanted}`; known: cpu, cuda, cuda:N", param="device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device `{wanted}`: torch finds no GPU here", "use `cpu`", param="device")
    return device
