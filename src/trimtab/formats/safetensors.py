"""Safetensors files and the Hugging Face folders they come in.

A file is a 64-bit length, a JSON header of that length, and tensor data that the header's ranges must cover
from the first byte to the last without gap or overlap.
"""

from __future__ import annotations

import math
import reprlib
from pathlib import Path
from typing import Any, Literal, TypeGuard

from trimtab.errors import BadFile, Unsupported
from trimtab.formats.folders import inside, parse_object, read_json
from trimtab.formats.mapped import MappedFile, MappedTensors, Place, looks_like
from trimtab.formats.source import TensorInfo

# Limits of the reader, some ten times beyond any published model.
MOST_HEADER = 16 << 20
MOST_INDEX = 32 << 20
MOST_CONFIG = 4 << 20
MOST_DIMS = 8
MOST_NAME = 1 << 12

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2,
    "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


class SafetensorsSource(MappedTensors):
    """A folder with `config.json` and `*.safetensors`; a TensorSource.

    Parameters
    ----------
    folder : the model's folder
    only : read just this file of it, whatever an index says
    """

    kind: Literal["safetensors"] = "safetensors"

    def __init__(self, folder: Path, only: str | None = None) -> None:
        if not (folder / "config.json").exists():
            raise BadFile(
                folder,
                "there is no config.json beside the weights",
                hint="copy it from the model's repository",
            )
        self.metadata: dict[str, Any] = read_json(inside(folder, "config.json"), MOST_CONFIG)
        wanted, names = _files(folder, only)
        files: list[MappedFile] = []
        places: dict[str, Place] = {}
        try:
            for name in names:
                file = MappedFile(inside(folder, name))
                files.append(file)
                for place in read_places(file):
                    tensor = place.info.name
                    if wanted is not None and wanted.get(tensor) != name:
                        continue
                    if tensor in places:
                        raise BadFile(file.path, f"tensor `{tensor[:60]}` is also in another file")
                    places[tensor] = place
            if wanted is not None and (missing := wanted.keys() - places.keys()):
                first = min(missing)
                where = wanted[first][:60]
                raise BadFile(folder, f"tensor {first[:60]!r} is not in {where!r}, where the index places it")
        except BaseException:
            for file in files:
                file.close()
            raise
        super().__init__(folder, places.values())


def _files(folder: Path, only: str | None) -> tuple[dict[str, str] | None, list[str]]:
    """The index (tensor to file), if there is one, and the files to open."""
    if only is not None:
        return None, [only]
    index = "model.safetensors.index.json"
    if (folder / index).exists():
        path = inside(folder, index)
        wanted = read_json(path, MOST_INDEX).get("weight_map")
        if not isinstance(wanted, dict) or not wanted or not all(isinstance(v, str) for v in wanted.values()):
            raise BadFile(path, "`weight_map` must name a file for each tensor")
        names = sorted(set(wanted.values()))
        for name in names:
            if not name.endswith(".safetensors"):
                raise BadFile(path, f"names the file {name[:80]!r}, which is no .safetensors file")
        return wanted, names
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".safetensors"))
    if "model.safetensors" in names:
        return None, ["model.safetensors"]
    return None, names


def read_places(file: MappedFile) -> list[Place]:
    """The tensors of one file, in the order of their bytes, checked to tile the data."""
    if file.size < 8:
        raise BadFile(file.path, f"only {file.size} bytes; a safetensors file begins with 8 for a length", 0)
    length = int.from_bytes(file.map[:8], "little")
    if length > min(MOST_HEADER, file.size - 8):
        seen = looks_like(file.map[:64])
        claim = (
            f"claims a header of {length} bytes; the file has {file.size}, trimtab reads up to {MOST_HEADER}"
        )
        raise BadFile(file.path, f"no safetensors file: {seen or claim}", 0)
    if file.map[8:9] != b"{":
        raise BadFile(file.path, "no safetensors file: the header is no JSON object", 8)
    header = parse_object(file.map[8 : 8 + length], file.path, 8)
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise BadFile(file.path, "`__metadata__` must map text to text", 8)
    start = 8 + length
    places = sorted(
        (_place(file, start, name, entry) for name, entry in header.items()),
        key=lambda place: (place.start, place.info.nbytes),
    )
    end = start
    for place in places:
        if place.start != end:
            fault = "shares bytes with another" if place.start < end else "leaves bytes before it to nobody"
            raise BadFile(file.path, f"tensor `{place.info.name[:60]}` {fault}", place.start)
        end += place.info.nbytes
    if end != file.size:
        kind = "is cut short" if end > file.size else "has bytes that belong to no tensor"
        raise BadFile(
            file.path,
            f"the tensors end at byte {end}, the file at {file.size}: it {kind}",
            min(end, file.size),
            "the download may be incomplete; fetch the file again",
        )
    file.release(0, start)
    return places


def _place(file: MappedFile, start: int, name: str, entry: object) -> Place:
    if len(name) > MOST_NAME or not name.isprintable():
        raise BadFile(file.path, f"a tensor's name is too long or unprintable: {name[:60]!r}", 8)
    label = f"tensor `{name[:60]}`"
    if not isinstance(entry, dict):
        raise BadFile(file.path, f"{label} is not described by an object", 8)
    dtype, shape, range_ = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise Unsupported(
            f"{file.path}: {label} is of type {reprlib.repr(dtype)}", f"known: {', '.join(DTYPE_BYTES)}"
        )
    # An empty tensor may have long dimensions, but not so long that nothing can index it.
    if not _whole_numbers(shape) or len(shape) > MOST_DIMS or math.prod(max(1, n) for n in shape) >= 1 << 60:
        raise BadFile(file.path, f"{label} has the shape {reprlib.repr(shape)}", 8)
    if not _whole_numbers(range_) or len(range_) != 2 or range_[0] > range_[1]:
        raise BadFile(file.path, f"{label} has the byte range {reprlib.repr(range_)}", 8)
    nbytes = range_[1] - range_[0]
    if math.prod(shape) * DTYPE_BYTES[dtype] != nbytes:
        raise BadFile(
            file.path, f"{label}: shape {reprlib.repr(shape)} of {dtype} does not fill {nbytes} bytes", 8
        )
    return Place(TensorInfo(name, tuple(shape), dtype, nbytes), file, start + range_[0])


def _whole_numbers(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 62 for v in values
    )
