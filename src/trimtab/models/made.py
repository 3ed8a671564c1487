"""Checkpoints that nobody trained: a configuration's tensors by name and shape, their bytes made up.

What a step costs does not depend on what the weights say, so a model can be timed, and planned for, before
anyone has downloaded it. Knows the names of Hugging Face folders, and what each architecture stores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from trimtab import _native
from trimtab.errors import BadFile
from trimtab.formats.ggml_types import type_number
from trimtab.formats.source import TensorInfo
from trimtab.models.config import ModelConfig, config_from
from trimtab.models.weights import HEAD_NORMED, HF_NAMES, HF_POST_NORMS, POST_NORMED

_LONGEST_BYTES = 2**20
_BIASED = frozenset({"qwen2"})  # query, key and value projections have biases


class MadeSource:
    """A `TensorSource` of a configuration; bf16 weights are normal numbers, those of other types zeros.

    Parameters
    ----------
    dtypes : type of each kind of matrix (`embed`, `head`, `q`, `k`, `v`, `out`, `gate`, `up`, `down`) that
        is not BF16
    biased : query, key and value have biases; default: as the architecture has it
    """

    kind: Literal["gguf", "safetensors"] = "safetensors"

    def __init__(
        self, config: ModelConfig, *, dtypes: Mapping[str, str] | None = None, biased: bool | None = None,
        path: Path = Path("made"), seed: int = 0,
    ) -> None:  # fmt: skip
        self.config, self.path, self.seed = config, path, seed
        self.metadata: Mapping[str, Any] = {}
        biased = config.architecture in _BIASED if biased is None else biased
        self._tensors = dict(_tensors(config, dict(dtypes or {}), biased))

    def names(self) -> list[str]:
        return list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        if name not in self._tensors:
            raise BadFile(self.path, f"tensor `{name}` is missing")
        shape, dtype = self._tensors[name]
        rows = shape[0] if len(shape) == 2 else 1
        return TensorInfo(name, shape, dtype, rows * _native.row_bytes(type_number(dtype), shape[-1]))

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        info = self.info(name)
        if info.dtype != "BF16":
            return np.zeros(info.nbytes, np.uint8)
        # Sign and fraction by chance, exponents of 2**-7 to 2**-4.
        chance = np.random.default_rng([self.seed, len(name), *name.encode()])
        bits = chance.integers(0, 2**16, info.nbytes // 2, dtype=np.uint16)
        return ((bits & 0x81FF) | 0x3C00).view(np.uint8)

    def dequantized(self, name: str) -> npt.NDArray[np.float32]:
        """Vectors are ones; a matrix is asked for by its bytes."""
        return np.ones(self.info(name).shape, np.float32)

    def release(self, name: str) -> None:
        """Nothing is held."""

    def forget_metadata(self) -> None:
        """There is none."""

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_config(path: Path) -> ModelConfig:
    """The configuration in a `config.json` that stands alone.

    Raises
    ------
    BadFile : it cannot be read, or says too little or nonsense
    Unsupported : a model of a kind that trimtab does not run
    """
    try:
        if path.stat().st_size > _LONGEST_BYTES:
            raise BadFile(path, "too large for a configuration")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(path, f"no readable configuration: {error}") from error
    if not isinstance(raw, dict):
        raise BadFile(path, "no configuration: not a JSON object")
    whole = path.resolve()
    name = whole.parent.name if path.name == "config.json" else path.stem
    return replace(config_of(path, raw), name=name)


def config_of(path: Path, raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that the content of a `config.json` describes; raises as `read_config` does."""
    return config_from(_ConfigAlone(path, raw))


class _ConfigAlone(MadeSource):
    """What reading a configuration asks of a folder: its content, and the size of one table."""

    def __init__(self, path: Path, raw: Mapping[str, Any]) -> None:
        self.path, self.metadata = path, raw
        inner = raw.get("text_config")
        text = inner if isinstance(inner, Mapping) else raw
        sizes = tuple(text.get(key, raw.get(key)) for key in ("vocab_size", "hidden_size"))
        if not all(isinstance(size, int) and 0 < size < 2**31 for size in sizes):
            raise BadFile(
                path, "it lacks `vocab_size` or `hidden_size`", hint="add them: the tensors are not here"
            )
        self._tensors = {"model.embed_tokens.weight": (sizes, "BF16")}


_Tensor = tuple[str, tuple[tuple[int, ...], str]]


def _tensors(config: ModelConfig, dtypes: Mapping[str, str], biased: bool) -> list[_Tensor]:
    """(name, (shape, type)) of everything the architecture stores; vectors are F32."""
    names = HF_POST_NORMS if config.architecture in POST_NORMED else HF_NAMES
    hidden, wide, narrow = config.hidden, config.q_width, config.kv_width

    def matrix(at: str, role: str, *shape: int) -> _Tensor:
        name = names[role] if names[role].endswith(".weight") else f"{names[role]}.weight"
        return at + name, (shape, dtypes.get(role, "BF16"))

    def vector(name: str, size: int) -> _Tensor:
        return name, ((size,), "F32")

    found = [matrix("model.", "embed", config.vocab_size, hidden), vector("model.norm.weight", hidden)]
    if not config.tied:
        found.append(matrix("", "head", config.vocab_size, hidden))
    norms = ["attn_norm", "mlp_norm"]
    if config.architecture in POST_NORMED:
        norms += ["post_attn_norm", "post_mlp_norm"]
    for index in range(config.layers):
        at = f"model.layers.{index}."
        found += [
            matrix(at, "q", wide, hidden), matrix(at, "k", narrow, hidden), matrix(at, "v", narrow, hidden),
            matrix(at, "out", hidden, wide), matrix(at, "gate", config.mlp, hidden),
            matrix(at, "up", config.mlp, hidden), matrix(at, "down", hidden, config.mlp),
        ]  # fmt: skip
        found += [vector(at + names[role], hidden) for role in norms]
        if config.architecture in HEAD_NORMED:
            found += [vector(at + names[role], config.head_dim) for role in ("q_norm", "k_norm")]
        if biased:
            found += [
                vector(f"{at}{names[role]}.bias", size)
                for role, size in (("q", wide), ("k", narrow), ("v", narrow))
            ]
    return found
