"""Files mapped into memory, and tensors as ranges of them. Knows bytes and ranges, no file format."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from trimtab import _native
from trimtab.errors import BadFile
from trimtab.formats.ggml_types import block_type
from trimtab.formats.source import TensorInfo

# What a file is that was meant to be a model: the first bytes, and words for the message.
MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "a GGUF file"),
    (b"PK\x03\x04", "a zip archive, as PyTorch's .pt and .bin pickles are; trimtab never loads pickles"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"version https://git-lfs", "a git-lfs pointer; the real file was not downloaded (`git lfs pull`)"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (b"\xfd7zXZ", "xz-compressed"),
    (b"BZh", "bzip2-compressed"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "a program"),
    (b"lmgg", "a GGML file, the format before GGUF; convert it with llama.cpp"),
    (b"fmgg", "a GGML file, the format before GGUF; convert it with llama.cpp"),
    (b"tjgg", "a GGML file, the format before GGUF; convert it with llama.cpp"),
)


def looks_like(head: bytes) -> str:
    """What a file's first bytes say it is, in words; empty when they say nothing."""
    for magic, words in MAGICS:
        if head.startswith(magic):
            return words
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, which could run code; trimtab never loads one"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page; the download saved an error or login page instead of the file"
    return ""


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, opened so that a pipe put in its place cannot block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise BadFile(path, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadFile(path, "this is no regular file")
    return descriptor


class MappedFile:
    """One file, mapped read-only.

    Parameters
    ----------
    path : the file; BadFile if it is empty, missing or no regular file
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor = open_regular(path)
        try:
            self.size = os.fstat(descriptor).st_size
            if self.size == 0:
                raise BadFile(path, "the file is empty")
            self.map = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise BadFile(path, f"cannot be mapped into memory: {error}") from error
        finally:
            os.close(descriptor)
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self.map, np.uint8)

    def release(self, start: int, stop: int) -> None:
        """Drop the pages of a byte range from resident memory; reading them again maps them again."""
        if hasattr(self.map, "madvise"):  # not on Windows
            start -= start % mmap.PAGESIZE
            if stop > start:
                self.map.madvise(mmap.MADV_DONTNEED, start, min(stop, self.size) - start)

    def close(self) -> None:
        """Unmap; if arrays still look into the file, that happens when the last of them goes."""
        del self.bytes
        try:
            self.map.close()
        except BufferError:
            del self.map


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies."""

    info: TensorInfo
    file: MappedFile
    start: int


class MappedTensors:
    """Tensors as ranges of mapped files: the part of a TensorSource that all formats share.

    Whoever builds one has checked that every place lies inside its file.
    """

    metadata: dict[str, Any]

    def __init__(self, path: Path, places: Iterable[Place]) -> None:
        self.path = path
        self._places = {place.info.name: place for place in places}

    def names(self) -> list[str]:
        return list(self._places)

    def info(self, name: str) -> TensorInfo:
        return self._place(name).info

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        place = self._place(name)
        return place.file.bytes[place.start : place.start + place.info.nbytes]

    def dequantized(self, name: str) -> npt.NDArray[np.float32]:
        info = self.info(name)
        count = int(np.prod(info.shape, dtype=np.int64))
        values: npt.NDArray[np.float32] = _native.dequantize(
            block_type(info.dtype).number, self.raw(name), count
        )
        return values.reshape(info.shape)

    def release(self, name: str) -> None:
        place = self._place(name)
        place.file.release(place.start, place.start + place.info.nbytes)

    def forget_metadata(self) -> None:
        self.metadata = {}

    def close(self) -> None:
        files = {id(place.file): place.file for place in self._places.values()}
        self._places = {}
        for file in files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _place(self, name: str) -> Place:
        if name not in self._places:
            raise BadFile(self.path, f"there is no tensor `{name}`")
        return self._places[name]
