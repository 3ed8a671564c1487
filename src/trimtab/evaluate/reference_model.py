"""A model of random weights and of sizes that no known model has, to measure kernels on.

It is read through the same source, maker and program as a real one; only its answers mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from trimtab.errors import BadFile
from trimtab.formats.source import TensorInfo

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP, VOCAB = 768, 12, 4, 64, 2048, 24_576


class ReferenceSource:
    """A llama of `layers` layers as a checkpoint folder would hold it; implements `TensorSource`."""

    def __init__(self, layers: int = 12, context: int = 4096, seed: int = 0) -> None:
        self.path = Path("reference")
        self.kind: Literal["safetensors"] = "safetensors"
        self.metadata: Mapping[str, Any] = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
            "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM, "intermediate_size": MLP, "vocab_size": VOCAB, "hidden_act": "silu",
            "max_position_embeddings": context, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
            "rope_theta": 10_000.0,
        }  # fmt: skip
        self._shapes = dict(_shapes(layers))
        largest = max(int(np.prod(shape)) for shape in self._shapes.values())
        # One block for all: what the kernels do does not depend on the values.
        self._values = np.random.default_rng(seed).normal(0, 0.02, largest).astype(np.float32)

    def names(self) -> list[str]:
        return list(self._shapes)

    def info(self, name: str) -> TensorInfo:
        if name not in self._shapes:
            raise BadFile(self.path, f"no tensor `{name}`")
        shape = self._shapes[name]
        return TensorInfo(name, shape, "F32", int(np.prod(shape)) * 4)

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        return self._values[: int(np.prod(self._shapes[name]))].view(np.uint8)

    def dequantized(self, name: str) -> npt.NDArray[np.float32]:
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        return self._values[: int(np.prod(shape))].reshape(shape).copy()

    def release(self, name: str) -> None:
        """Nothing is mapped."""

    def forget_metadata(self) -> None:
        """It is small."""

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _shapes(layers: int) -> list[tuple[str, tuple[int, ...]]]:
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    found: list[tuple[str, tuple[int, ...]]] = [
        ("model.embed_tokens.weight", (VOCAB, HIDDEN)), ("model.norm.weight", (HIDDEN,)),
    ]  # fmt: skip
    for layer in range(layers):
        for name, shape in (
            ("input_layernorm", (HIDDEN,)), ("post_attention_layernorm", (HIDDEN,)),
            ("self_attn.q_proj", (queries, HIDDEN)), ("self_attn.k_proj", (keys, HIDDEN)),
            ("self_attn.v_proj", (keys, HIDDEN)), ("self_attn.o_proj", (HIDDEN, queries)),
            ("mlp.gate_proj", (MLP, HIDDEN)), ("mlp.up_proj", (MLP, HIDDEN)),
            ("mlp.down_proj", (HIDDEN, MLP)),
        ):  # fmt: skip
            found.append((f"model.layers.{layer}.{name}.weight", shape))
    return found
