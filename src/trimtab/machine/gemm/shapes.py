"""Which matrix products are measured: the layers of language models, and a grid between and around them.

A product is `m` rows of activations times a matrix of `n` outputs and `k` inputs. Of a gated matrix `n`
counts the results, half of the rows that are multiplied.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trimtab.errors import BadFile


class Shape(NamedTuple):
    """One product: m rows, n results of each, k inputs."""

    m: int
    n: int
    k: int
    gated: bool = False

    @property
    def ops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.m * self.n * self.k * (2 if self.gated else 1)

    @property
    def name(self) -> str:
        return f"{self.m}x{self.n}x{self.k}" + (" gated" if self.gated else "")


# (n, k, gated) of every linear layer: query-key-value, attention output, gate and up, down.
LAYERS: dict[str, tuple[tuple[int, int, bool], ...]] = {
    "SmolLM2-135M": ((960, 576, False), (576, 576, False), (1536, 576, True), (576, 1536, False)),
    "Gemma-3-270M": ((1536, 640, False), (640, 1024, False), (2048, 640, True), (640, 2048, False)),
    "MiniLM-L6": ((1152, 384, False), (384, 384, False), (1536, 384, False), (384, 1536, False)),
    "1B": ((3072, 2048, False), (2048, 2048, False), (8192, 2048, True), (2048, 8192, False)),
    "7B": ((12288, 4096, False), (4096, 4096, False), (11008, 4096, True), (4096, 11008, False)),
}
HEADS = ((49152, 576, False), (262144, 640, False), (32000, 4096, False))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
HEAD_ROWS = (1, 2, 4, 8)
WIDE = ((4096, 8192, False), (8192, 4096, False), (8192, 8192, False))
"""Sides beyond what most layers have: they show whether a prediction reaches past its data."""
WIDE_ROWS = (1, 8, 64, 256)

MOST_OPS = 4e10
"""A product of more takes so long that fewer of the others could be measured."""

_SMALLEST, _LARGEST = Shape(1, 64, 64), Shape(2048, 16384, 16384)


def llm() -> list[Shape]:
    """Every layer of `LAYERS` at each of `ROWS`, and the vocabulary's projections at a few rows."""
    layers = dict.fromkeys(itertools.chain(*LAYERS.values()))
    found = [Shape(m, *layer) for layer in layers for m in ROWS]
    found += [Shape(m, *layer) for layer in WIDE for m in WIDE_ROWS]
    found += [Shape(m, *head) for head in HEADS for m in HEAD_ROWS]
    return [shape for shape in found if shape.ops <= MOST_OPS]


def grid(count: int) -> list[Shape]:
    """`count` products spread evenly in the logarithms of m, n and k, every fourth one gated.

    An additive recurrence with the powers of the root of x^4 = x + 1 leaves no large gap at any count.
    """
    root = 1.2207440846057596
    steps = [root**-power for power in (1, 2, 3)]
    found: list[Shape] = []
    for index in itertools.count(1):
        if len(found) == count:
            return found
        shares = [(0.5 + step * index) % 1.0 for step in steps]
        m, n, k = (
            round(2 ** (math.log2(low) + share * math.log2(high / low)))
            for share, low, high in zip(shares, _SMALLEST[:3], _LARGEST[:3], strict=True)
        )
        shape = Shape(m, n, k, gated=index % 4 == 0)
        if shape.ops <= MOST_OPS and shape.n * shape.k <= 2**26:
            found.append(shape)
    raise AssertionError("unreachable")


def read(path: Path) -> list[Shape]:
    """Products from a text file: a line `m n k`, `gated` behind it where it is; # begins a comment.

    Raises
    ------
    BadFile : unreadable, or a line that is no product
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(path, f"cannot be read: {error}") from None
    found = list(_parsed(path, lines))
    if not found:
        raise BadFile(path, "no products in it", hint="one a line: `m n k`, such as `512 4096 4096`")
    return list(dict.fromkeys(found))


def _parsed(path: Path, lines: list[str]) -> Iterator[Shape]:
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        gated = words[-1] == "gated"
        sizes = words[: 3 if gated else None]
        if len(words) != 3 + gated or not all(re.fullmatch(r"[1-9]\d{0,6}", word) for word in sizes):
            raise BadFile(
                path, f"line {number} is no product: {line.strip()!r}", hint="write `m n k [gated]`"
            )
        m, n, k = map(int, sizes)
        yield Shape(m, n, k, gated)
