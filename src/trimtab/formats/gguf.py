"""GGUF files, versions 2 and 3, whole or split in parts.

Layout: magic, version, counts, key-value metadata, tensor descriptions, padding, tensor data. The reader
walks it once and believes nothing: every length is compared with what is left of the file before it is used,
and the limits below keep a hostile header from costing memory out of proportion to the file.
"""

from __future__ import annotations

import itertools
import math
import re
import reprlib
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trimtab import _native
from trimtab.errors import BadFile, Unsupported
from trimtab.formats.folders import inside
from trimtab.formats.ggml_types import BY_NUMBER, OTHER_TYPES
from trimtab.formats.mapped import MappedFile, MappedTensors, Place
from trimtab.formats.source import TensorInfo

# Limits of the reader, each some ten times beyond any published model.
MOST_KEYS = 1 << 16
MOST_TENSORS = 1 << 17
MOST_ENTRIES = 1 << 22  # array entries of a whole file, which become Python objects
MOST_TEXT = 1 << 26  # bytes of one string outside an array
MOST_NAME = 1 << 12  # bytes of a key or a tensor's name
MOST_DEPTH = 4  # arrays within arrays
MOST_DIMS = 4
MOST_PARTS = 4096
MOST_ALIGNMENT = 1 << 20

UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
SCALAR_READERS = {number: struct.Struct("<" + code) for number, code in SCALARS.items()}
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")

PART_NAME = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


class GgufSource(MappedTensors):
    """A GGUF model; a TensorSource.

    Parameters
    ----------
    path : the file; any part of a split model opens all of them
    """

    kind: Literal["gguf"] = "gguf"

    def __init__(self, path: Path) -> None:
        header = _Header(path)
        files = [header.file]
        try:
            headers = [header]
            for other in _part_paths(path, header):
                if other.name != path.name:
                    part = _Header(other)
                    files.append(part.file)
                    headers.append(part)
            if len(headers) > 1:
                headers.sort(key=lambda part: _split_number(part, "split.no"))
                _check_parts(headers)
            self.metadata: dict[str, Any] = headers[0].metadata
            places = [place for part in headers for place in part.places]
            if len({place.info.name for place in places}) != len(places):
                raise BadFile(path, "a tensor is in two parts")
        except BaseException:
            for file in files:
                file.close()
            raise
        super().__init__(path, places)


class _Header:
    """One file's metadata and tensor places.

    Attributes
    ----------
    metadata : key to value; arrays are lists
    places : tensors with their byte ranges, all inside the file and apart from each other
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = MappedFile(path)
        self.position = 0
        self.entries_left = MOST_ENTRIES
        self.metadata: dict[str, Any] = {}
        self.places: list[Place] = []
        try:
            self._read()
        except BaseException:
            self.file.close()
            raise

    def _read(self) -> None:
        tensors, keys = self._preamble()
        for _ in range(keys):
            self._key_value()
        described = [self._tensor() for _ in range(tensors)]
        alignment = self._alignment()
        start = -(-self.position // alignment) * alignment
        self.places = [self._place(start, alignment, *fields) for fields in described]
        self._check_apart()
        self.file.release(0, start)

    def _preamble(self) -> tuple[int, int]:
        """Numbers of tensors and of metadata keys."""
        if self.file.map[:4] != b"GGUF":
            raise self.bad("this is no GGUF file", 0)
        self.position = 4
        version = self._number(U32)
        if version in (2 << 24, 3 << 24):
            raise Unsupported(
                f"{self.path} is a big-endian GGUF file", "write a little-endian one from its source"
            )
        if version == 1:
            raise Unsupported(
                f"{self.path} is a GGUF file of version 1", "convert the model again; 2 and 3 are read"
            )
        if version not in (2, 3):
            raise Unsupported(f"{self.path} is a GGUF file of version {version}; versions 2 and 3 are known")
        tensors = self._count(MOST_TENSORS, 32, "tensors")
        keys = self._count(MOST_KEYS, 13, "metadata keys")
        return tensors, keys

    def _count(self, most: int, least_bytes: int, what: str) -> int:
        """A count, bounded by a limit and by what fits when each takes at least so many bytes."""
        at = self.position
        count: int = self._number(U64)
        if count > min(most, (self.file.size - self.position) // least_bytes):
            raise self.bad(
                f"announces {count} {what}, more than the file can hold or trimtab reads ({most})", at
            )
        return count

    def _key_value(self) -> None:
        at = self.position
        key = self._name("a metadata key")
        if key in self.metadata:
            raise self.bad(f"metadata key `{key[:60]}` appears twice", at)
        self.metadata[key] = self._value(self._number(U32), 0)

    def _value(self, kind: int, depth: int) -> Any:
        at = self.position
        if kind == STRING:
            return self._text(MOST_TEXT, "a metadata text")
        if kind == ARRAY:
            return self._array(depth + 1)
        if kind not in SCALARS:
            raise self.bad(f"metadata value of unknown type {kind}", at)
        value = self._number(SCALAR_READERS[kind])
        if kind == BOOL:
            if value > 1:
                raise self.bad(f"truth value {value}; 0 and 1 are allowed", at)
            return bool(value)
        return value

    def _array(self, depth: int) -> list[Any]:
        at = self.position
        if depth > MOST_DEPTH:
            raise self.bad(f"arrays nested deeper than {MOST_DEPTH}", at)
        kind = self._number(U32)
        least = {STRING: 8, ARRAY: 12}.get(kind) or (SCALAR_READERS[kind].size if kind in SCALARS else 1)
        count = self._count(self.entries_left, least, "array entries")
        self.entries_left -= count
        if kind == STRING:
            values, self.position, problem = _native.read_strings(self.file.bytes, self.position, count)
            if problem:
                raise self.bad(problem, self.position)
            return list(values)
        if kind == ARRAY:
            return [self._array(depth + 1) for _ in range(count)]
        if kind not in SCALARS:
            raise self.bad(f"array of unknown type {kind}", at)
        numbers = np.frombuffer(self.file.map, "<" + SCALARS[kind], count, self.position)
        self.position += numbers.nbytes
        if kind == BOOL:
            if count and int(numbers.max()) > 1:
                raise self.bad("truth values other than 0 and 1", at)
            numbers = numbers.astype(np.bool_)
        return list(numbers.tolist())

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int, int]:
        """Name, shape as stored (innermost first), type, offset, and where this is described."""
        at = self.position
        name = self._name("a tensor's name")
        dims = self._number(U32)
        if not 1 <= dims <= MOST_DIMS:
            raise self.bad(f"tensor `{name[:60]}` has {dims} dimensions; 1 to {MOST_DIMS} are allowed", at)
        shape = tuple(self._number(U64) for _ in range(dims))
        return name, shape, self._number(U32), self._number(U64), at

    def _alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", 32)
        whole = isinstance(alignment, int) and not isinstance(alignment, bool)
        if not whole or not 1 <= alignment <= MOST_ALIGNMENT or alignment & (alignment - 1):
            raise self.bad(f"`general.alignment` is {reprlib.repr(alignment)}; it must be a power of two")
        return int(alignment)

    def _place(
        self, start: int, alignment: int, name: str, shape: tuple[int, ...], kind: int, offset: int, at: int
    ) -> Place:
        label = f"tensor `{name[:60]}`"
        if kind not in BY_NUMBER:
            known = f"type {OTHER_TYPES[kind]}" if kind in OTHER_TYPES else f"unknown type {kind}"
            raise Unsupported(
                f"{self.path} at byte {at}: {label} is of {known}, which trimtab does not read",
                "take a file with one of " + ", ".join(block.name for block in BY_NUMBER.values()),
            )
        block = BY_NUMBER[kind]
        weights = math.prod(shape)
        if not 0 < weights < 1 << 62:
            raise self.bad(f"{label} has the impossible shape {shape[::-1]}", at)
        if shape[0] % block.weights:
            raise self.bad(
                f"{label}: rows of {shape[0]} weights do not fill {block.name} blocks of {block.weights}", at
            )
        nbytes = block.size(weights)
        if offset % alignment:
            raise self.bad(f"{label} begins at offset {offset}, no multiple of the alignment {alignment}", at)
        if start + offset + nbytes > self.file.size:
            raise self.bad(
                f"{label} ends at byte {start + offset + nbytes}, the file at {self.file.size}", at,
                "the download may be incomplete; fetch the file again",
            )  # fmt: skip
        return Place(TensorInfo(name, shape[::-1], block.name, nbytes), self.file, start + offset)

    def _check_apart(self) -> None:
        if len({place.info.name for place in self.places}) != len(self.places):
            raise self.bad("two tensors have the same name")
        order = sorted(self.places, key=lambda place: place.start)
        for before, after in itertools.pairwise(order):
            if before.start + before.info.nbytes > after.start:
                names = f"`{before.info.name[:60]}` and `{after.info.name[:60]}`"
                raise self.bad(f"tensors {names} share bytes", after.start)

    def _number(self, reader: struct.Struct) -> Any:
        try:
            (value,) = reader.unpack_from(self.file.map, self.position)
        except struct.error:
            raise self.bad("the file ends inside its header", self.position, "fetch the file again") from None
        self.position += reader.size
        return value

    def _name(self, what: str) -> str:
        """Text that messages may show as it is."""
        at = self.position
        name = self._text(MOST_NAME, what)
        if not name.isprintable():
            raise self.bad(f"{what} has unprintable characters: {name[:60]!r}", at)
        return name

    def _text(self, most: int, what: str) -> str:
        at = self.position
        length = self._number(U64)
        if length > min(most, self.file.size - self.position):
            raise self.bad(
                f"{what} claims {length} bytes, more than the file holds or trimtab reads ({most})", at
            )
        data = self.file.map[self.position : self.position + length]
        self.position += length
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self.bad(f"{what} is not UTF-8", at) from None

    def bad(self, problem: str, offset: int | None = None, hint: str = "") -> BadFile:
        return BadFile(self.path, problem, offset, hint)


def first_parts(names: Iterable[str]) -> list[str]:
    """The GGUF models among file names: whole files, and the first part of each split one."""
    matches = {name: PART_NAME.fullmatch(name) for name in names if name.endswith(".gguf")}
    return [name for name, match in matches.items() if match is None or int(match["index"]) == 1]


def _part_paths(path: Path, header: _Header) -> list[Path]:
    """Every part of a split model, the opened one included; empty for a whole file."""
    if "split.count" not in header.metadata:
        return []
    count = _split_number(header, "split.count")
    if count <= 1:
        return []
    match = PART_NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise BadFile(
            path,
            f"one of {count} parts, but its name does not say which",
            hint="name it NAME-00001-of-00003.gguf",
        )
    names = [f"{match['stem']}-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]
    return [inside(path.parent, name) for name in names]


def _split_number(header: _Header, key: str) -> int:
    value = header.metadata.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_PARTS:
        raise header.bad(f"`{key}` is {reprlib.repr(value)}; it must be a whole number up to {MOST_PARTS}")
    return value


def _check_parts(headers: list[_Header]) -> None:
    """Parts of one model know their place among the others."""
    for index, header in enumerate(headers):
        if _split_number(header, "split.no") != index or _split_number(header, "split.count") != len(headers):
            raise header.bad(f"should be part {index + 1} of {len(headers)}, but its metadata disagrees")
    total = headers[0].metadata.get("split.tensors.count")
    found = sum(len(header.places) for header in headers)
    if total is not None and total != found:
        raise headers[0].bad(f"the parts hold {found} tensors, {reprlib.repr(total)} were announced")


if sys.byteorder != "little":  # arrays are read in place
    raise ImportError("trimtab reads GGUF files on little-endian machines only")
