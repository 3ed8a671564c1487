"""A model of random weights and of sizes that no known model has, to measure kernels on.

It is read through the same source, maker and program as a real one; only its answers mean nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.models.made import MadeSource, config_of

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP, VOCAB = 768, 12, 4, 64, 2048, 24_576
_MATRICES = ("embed", "q", "k", "v", "out", "gate", "up", "down")


class ReferenceSource(MadeSource):
    """A llama of `layers` layers as a checkpoint folder would hold it; every tensor is float32."""

    def __init__(self, layers: int = 12, context: int = 4096, seed: int = 0) -> None:
        path = Path("reference")
        settings: dict[str, Any] = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
            "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM, "intermediate_size": MLP, "vocab_size": VOCAB, "hidden_act": "silu",
            "max_position_embeddings": context, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
            "rope_theta": 10_000.0,
        }  # fmt: skip
        super().__init__(
            config_of(path, settings), dtypes=dict.fromkeys(_MATRICES, "F32"), path=path, seed=seed
        )
        self.metadata = settings
        # One block for all: what the kernels do does not depend on the values.
        largest = VOCAB * HIDDEN
        self._values = np.random.default_rng(seed).normal(0, 0.02, largest).astype(np.float32)

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        return self._values[: self.info(name).nbytes // 4].view(np.uint8)

    def dequantized(self, name: str) -> npt.NDArray[np.float32]:
        shape = self.info(name).shape
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        return self._values[: int(np.prod(shape))].reshape(shape).copy()
