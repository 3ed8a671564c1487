"""How a product can be cut into pieces: the choices there are, and what each means for one product.

A `Blocking` names the rows of a block of activations, the tiles computed together, the bytes of a strip of
weights and the units a thread takes at once; zeros leave that to the kernels. Results never depend on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from trimtab.machine.gemm.shapes import Shape

TILE, GROUP = 16, 32
STRIP_BYTES = 256 * 1024
"""What the kernels take where nothing was chosen."""
STRIPS = (64 * 1024, STRIP_BYTES, 1024 * 1024)
ROWS = (4, 6, 8, 12)


class Blocking(NamedTuple):
    """One way to cut a product; see native/kernels.h."""

    rows: int = 0
    tiles: int = 0
    strip_bytes: int = 0
    grain: int = 0


DEFAULT = Blocking()
NAIVE = Blocking(rows=1, tiles=1, grain=1)
"""One row and one tile at a time: what a kernel without blocking does."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A weight format as one set of kernels multiplies it.

    Parameters
    ----------
    format : of the weights: bf16, int8, q4, q4+min, ...
    form : of the activations, as the format wants them: wide, token, grouped
    max_rows, many_rows : most rows of a block, and those of a block by default when there are several
    sums : of one row and tile that fit the registers together
    """

    format: str
    form: str
    max_rows: int
    many_rows: int
    sums: int

    @classmethod
    def of(cls, format: str, kernels: Any = None) -> Kernel:
        """What this processor's kernels, or the given ones, do with a format."""
        from trimtab import _native

        kernels = kernels or _native.choose_kernels("")
        form = str(_native.format_form(format)[0])
        most = int(kernels.max_rows)
        # Two sums a tile fit where one row a block leaves room for two tiles of every row.
        fit = 2 if _native.tiles_most(kernels, form, most) > 1 else 1
        return cls(format, form, most, int(_native.block_rows(kernels, 0, 1 << 20)), fit * most)

    def rows_of(self, blocking: Blocking, m: int) -> int:
        """Rows of a block: as few blocks as allowed, filled evenly; as native/blocking.cpp has it."""
        most = blocking.rows
        if not 0 < most <= self.max_rows:
            most = self.many_rows if m > self.max_rows else self.max_rows
        return math.ceil(m / math.ceil(m / most))

    def tiles_of(self, blocking: Blocking, m: int) -> int:
        """Tiles together where they were chosen; 0 where the kernels decide."""
        return min(blocking.tiles, 4, max(1, self.sums // self.rows_of(blocking, m)))

    def grain_of(self, blocking: Blocking, shape: Shape, threads: int) -> int:
        """Units that a thread takes at once."""
        if blocking.grain:
            return blocking.grain
        return 1 if shape.m >= self.max_rows else max(1, units_of(shape) // (8 * threads))


def units_of(shape: Shape) -> int:
    """What is shared out among threads: tiles, or groups of 32 gated results."""
    return math.ceil(shape.n / GROUP) if shape.gated else math.ceil(shape.n / TILE)


def candidates(kernel: Kernel, shape: Shape, threads: int) -> list[Blocking]:
    """Every blocking that changes what is executed for this product; the default comes first."""
    found: dict[tuple[int, ...], Blocking] = {}
    units = units_of(shape)
    one_block = shape.m <= kernel.max_rows
    for rows in (0,) if one_block else ROWS:
        if rows > kernel.max_rows:
            continue
        most = min(4, max(1, kernel.sums // kernel.rows_of(Blocking(rows), shape.m)))
        for tiles in range(1, most + 1):
            if shape.gated and tiles == 3:
                continue  # a unit has four tiles: three do as two
            for strip in (0,) if one_block else STRIPS:
                for grain in _grains(units, shape, tiles, one_block, threads):
                    blocking = Blocking(rows, tiles, strip, grain)
                    found.setdefault((kernel.rows_of(blocking, shape.m), tiles, strip, grain), blocking)
    return [DEFAULT, *found.values()]


def _grains(units: int, shape: Shape, tiles: int, one_block: bool, threads: int) -> list[int]:
    """Few tiles at once share out evenly; many keep a strip together and a stream long."""
    if shape.gated:
        steps = [1, 4, 16]
    else:
        steps = [tiles, 4 * tiles, 16 * tiles]
    if one_block:
        steps.append(max(1, units // (8 * threads)))
    share = max(1, math.ceil(units / threads))
    return sorted({min(step, share) for step in steps})
