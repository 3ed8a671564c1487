"""A TensorSource out of plain dictionaries: what the model floor sees of a file, without a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt


class FakeSource:
    """Metadata as given; tensors as a name -> array (or only a shape) table."""

    def __init__(
        self,
        metadata: Mapping[str, Any],
        tensors: Mapping[str, Any] | None = None,
        *,
        kind: Literal["gguf", "safetensors"] = "gguf",
        path: Path = Path("/models/fake"),
    ) -> None:
        self.metadata, self.tensors, self.kind, self.path = metadata, dict(tensors or {}), kind, path

    def names(self) -> list[str]:
        return list(self.tensors)

    def info(self, name: str) -> SimpleNamespace:
        held = self.tensors[name]
        return SimpleNamespace(name=name, shape=held if isinstance(held, tuple) else held.shape)

    def dequantized(self, name: str) -> npt.NDArray[np.float32]:
        array: npt.NDArray[np.float32] = self.tensors[name].astype(np.float32)
        return array
