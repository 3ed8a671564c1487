"""Files of one model folder: names that stay inside it, and JSON that is read without trust."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from trimtab.errors import BadFile
from trimtab.formats.mapped import looks_like, open_regular


def inside(folder: Path, name: str, below: str = "") -> Path:
    """The file `name` of a folder.

    The name must be plain, and the file must lie in the folder once links are followed. One kind of link may
    lead out: in the hub's cache a snapshot's files point into `blobs` beside `snapshots`.

    Parameters
    ----------
    below : the folder in `folder` that the file lies in, when it does not lie there itself
    """
    if not name or name in (".", "..") or any(sign in name for sign in "/\\\0:"):
        raise BadFile(folder, f"names the file {name[:80]!r}; only plain names of its own files are allowed")
    path = folder / below / name
    try:
        real, home = path.resolve(strict=True), folder.resolve(strict=True)
    except FileNotFoundError:
        raise BadFile(path, "the file is missing", hint="the download may be incomplete") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise BadFile(path, f"cannot be followed: {error}") from error
    if real.parent == home / below:
        return path
    model = home.parent.parent
    if (
        home.parent.name == "snapshots"
        and model.name.startswith("models--")
        and real.parent == model / "blobs"
    ):
        return path
    raise BadFile(path, f"links to {real}, outside its folder", hint="copy the file into the folder")


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes."""
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise BadFile(path, f"larger than {most} bytes, the most trimtab reads of such a file")
    return data


def read_json(path: Path, most: int) -> dict[str, Any]:
    """A JSON file that holds one object."""
    return parse_object(read_bounded(path, most), path)


def parse_object(data: bytes | memoryview, path: Path, offset: int = 0) -> dict[str, Any]:
    """One JSON object in UTF-8 without repeated keys; `offset` is where it begins in the file."""
    data = bytes(data)
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_int=_whole, parse_constant=_constant
        )
    except RecursionError:
        raise BadFile(path, "JSON nested too deeply", offset) from None
    except json.JSONDecodeError as error:
        seen = looks_like(data[:64])
        problem = f"it is {seen}" if seen else f"broken JSON: {error.msg}"
        raise BadFile(path, problem, offset + len(error.doc[: error.pos].encode())) from None
    except UnicodeDecodeError as error:
        seen = looks_like(data[:64])
        raise BadFile(path, f"it is {seen}" if seen else "JSON is not UTF-8", offset + error.start) from None
    except ValueError as error:  # a repeated key, an endless number
        raise BadFile(path, f"broken JSON: {error}", offset) from None
    if not isinstance(value, dict):
        raise BadFile(path, f"holds a JSON {type(value).__name__} where an object belongs", offset)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        count = Counter(key for key, _ in pairs)
        raise ValueError(f"key {count.most_common(1)[0][0][:60]!r} appears twice")
    return value


def _whole(digits: str) -> int:
    """No count or offset needs more than 64 bits; longer numbers only trip what computes with them."""
    if len(digits) > 20:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _constant(name: str) -> float:
    """Infinity and NaN are no JSON, but configurations written by Python hold them; readers check values."""
    return {"NaN": math.nan, "Infinity": math.inf}.get(name, -math.inf)
