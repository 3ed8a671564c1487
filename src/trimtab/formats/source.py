"""A model file or folder as named tensors and metadata, whatever wrote it.

This is all that the floors above know of files. Opening one reads headers only, runs no code from it and
trusts no number in it; what does not hold up is a BadFile that names file and offset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from trimtab.errors import BadFile, Unsupported


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a file says about one tensor.

    Parameters
    ----------
    name : as in the file
    shape : outermost dimension first; a matrix is (outputs, inputs)
    dtype : "F32", "BF16", "Q4_1", ...
    nbytes : size in the file
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


class TensorSource(Protocol):
    """Named tensors and metadata of one model.

    `metadata` holds a GGUF file's keys, or the content of a folder's `config.json`. Arrays are lists.
    """

    @property
    def path(self) -> Path: ...

    @property
    def kind(self) -> Literal["gguf", "safetensors"]: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    def names(self) -> list[str]:
        """Every tensor, in file order."""
        ...

    def info(self, name: str) -> TensorInfo:
        """Shape, type and size of a tensor; BadFile if there is none of that name."""
        ...

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The tensor's bytes, (nbytes,), mapped from the file and read-only."""
        ...

    def dequantized(self, name: str) -> npt.NDArray[np.float32]:
        """The tensor's values as a new array of its shape."""
        ...

    def release(self, name: str) -> None:
        """Let the tensor's pages leave this process's resident memory; they stay readable."""
        ...

    def forget_metadata(self) -> None:
        """Empty `metadata`, once all is read: a vocabulary is a hundred thousand small objects."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(path: Path | str) -> TensorSource:
    """Open a `.gguf` file or a folder in Hugging Face layout.

    Parameters
    ----------
    path : the file (any part of a split one), or the folder with `config.json` and `*.safetensors`

    Raises
    ------
    BadFile : missing, damaged or hostile
    Unsupported : something else that trimtab recognises, such as a pickle, or a valid file it cannot use
    """
    from trimtab.formats.gguf import GgufSource
    from trimtab.formats.mapped import looks_like
    from trimtab.formats.safetensors import SafetensorsSource

    path = Path(path)
    try:
        if path.is_dir():
            return _open_folder(path)
        if not path.exists():
            raise BadFile(path, "there is no such file or folder")
        if not path.is_file():
            raise BadFile(path, "this is neither a file nor a folder")
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, ValueError) as error:
        raise BadFile(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if head.startswith(b"GGUF"):
        return GgufSource(path)
    if path.suffix == ".safetensors":
        if not looks_like(head):
            return SafetensorsSource(path.parent, only=path.name)
        raise BadFile(path, f"named .safetensors, but it is {looks_like(head)}")
    hint = "give a .gguf file or a folder with config.json and *.safetensors"
    if not head:
        raise BadFile(path, "the file is empty", hint=hint)
    if path.suffix == ".gguf":
        raise BadFile(path, f"no GGUF file: {looks_like(head) or f'it begins with {head[:4]!r}'}", 0)
    raise Unsupported(
        f"{path} is no model file trimtab can read: {looks_like(head) or 'unknown content'}", hint
    )


def _open_folder(folder: Path) -> TensorSource:
    from trimtab.formats.gguf import GgufSource, first_parts
    from trimtab.formats.safetensors import SafetensorsSource

    names = sorted(entry.name for entry in folder.iterdir())
    if any(name.endswith(".safetensors") for name in names) or "model.safetensors.index.json" in names:
        return SafetensorsSource(folder)
    files = first_parts(names)
    if len(files) == 1:
        return GgufSource(folder / files[0])
    if files:
        raise BadFile(
            folder, f"holds {len(files)} GGUF models: {', '.join(files[:8])}", hint="name one of them"
        )
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
    if pickles:
        raise Unsupported(
            f"{folder} holds its weights as a pickle ({pickles[0]}); one can run code, so trimtab loads none",
            "convert it to safetensors, or pull a repository that has them",
        )
    raise BadFile(folder, "holds neither *.safetensors nor a .gguf file")
