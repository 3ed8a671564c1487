"""The memory ladder: what a dependent load costs by footprint, and where the caches end.

A ring of pointers visits every line of a buffer in random order, so no prefetcher helps; the same in address
order shows what one can do. Both page sizes are measured, because with small pages the address translation
has steps of its own. Levels and their ends are read off the curve and not taken from the system's tables.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.machine.micro.rows import spread

LINE, PAGE = 64, 4096
STEEP = 0.5
"""Exponent of a rise: a level's end lies where cost grows faster than the square root of the footprint."""
LEAST_RISE = 1.5
"""A new level costs at least this many times the one before; less is a step of the address translation."""


@dataclass(frozen=True, slots=True)
class Point:
    """One footprint of a curve; times are of one hop."""

    bytes: int
    ns: float
    cycles: float
    median_ns: float
    iqr_ns: float
    n: int


@dataclass(frozen=True, slots=True)
class Level:
    """A stretch of a curve that is flat.

    Parameters
    ----------
    first_bytes, last_bytes : footprints at its ends
    ns, cycles : medians over it
    knee_bytes : footprint where the cost is halfway, in ratio, to that of the next level; 0 for the last
    """

    first_bytes: int
    last_bytes: int
    ns: float
    cycles: float
    knee_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Curve:
    """Samples of one way to walk, by footprint, gathered in passes.

    Parameters
    ----------
    random : order of the ring; False is address order
    cpus : processors that walk the ring together, each with many hops under way; None for a latency
    stride : bytes between nodes; with a page, each node is on another page and on a line of its own
    """

    random: bool
    cpus: tuple[int, ...] | None = None
    stride: int = LINE

    def __post_init__(self) -> None:
        self._taken: dict[int, list[list[tuple[float, float]]]] = {}

    def take(self, chase: Any, size: int, samples: int, hops: int) -> None:
        """One pass at one footprint; `chase` is a buffer that holds it."""
        chase.link(size, self.stride, self.random, self.stride > LINE)
        nodes = size // self.stride
        # Twice round before the clock starts, so that the caches hold what they can; where the ring is far
        # larger than they are, that is not needed.
        warm = min(2 * nodes, 1 << 20)
        count = max(1000, min(hops, 8 * nodes))
        self._taken.setdefault(size, []).append(chase.run(count, samples, warm, self.cpus))

    def points(self) -> list[Point]:
        found = []
        for size, passes in sorted(self._taken.items()):
            ns = spread([[hop[0] for hop in one] for one in passes])
            cycles = spread([[hop[1] for hop in one] for one in passes])
            found.append(Point(size, ns.calmest, cycles.calmest, ns.median, ns.iqr, ns.n))
        return found


def footprints(most_bytes: int, per_octave: int, least_bytes: int = PAGE) -> list[int]:
    """Multiples of a page from `least_bytes` to `most_bytes`, evenly spread in ratio."""
    sizes: list[int] = []
    for step in range(per_octave * 64):
        size = round(least_bytes * 2 ** (step / per_octave) / PAGE) * PAGE
        if size > most_bytes:
            break
        if not sizes or size > sizes[-1]:
            sizes.append(size)
    return sizes


def levels(points: Sequence[Point]) -> list[Level]:
    """The flat stretches of a curve and the knees between them.

    A larger ring cannot be faster than a smaller one, so a point counts no more than any of those behind it:
    what is above that was disturbed. Rises are where cost grows steeply over an octave.
    """
    if len(points) < 3:
        return []
    costs = [point.ns for point in points]
    for at in range(len(costs) - 2, -1, -1):
        costs[at] = min(costs[at], costs[at + 1])
    flat = [_slope(points, costs, at) < STEEP for at in range(len(points))]
    runs: list[tuple[int, int]] = []  # first and last index
    for at, is_flat in enumerate(flat):
        if is_flat and at and flat[at - 1]:
            runs[-1] = (runs[-1][0], at)
        elif is_flat:
            runs.append((at, at))
    kept: list[tuple[int, int]] = []
    for first, last in runs:
        if kept and _median(costs, (first, last)) < LEAST_RISE * _median(costs, kept[-1]):
            kept[-1] = (kept[-1][0], last)
        else:
            kept.append((first, last))
    # One flat point on the way up is chance; at an end of the curve a level may just begin or leave it.
    ends = (0, len(points) - 1)
    kept = [run for run in kept if run[0] < run[1] or run[0] in ends]
    found = []
    for number, run in enumerate(kept):
        ns = _median(costs, run)
        knee = 0.0
        if number + 1 < len(kept):
            knee = _crossing(points, costs, run, math.sqrt(ns * _median(costs, kept[number + 1])))
        inside = points[run[0] : run[1] + 1]
        cycles = ns * statistics.median(point.cycles / point.ns for point in inside)
        found.append(Level(inside[0].bytes, inside[-1].bytes, ns, cycles, round(knee)))
    return found


def _slope(points: Sequence[Point], costs: Sequence[float], at: int) -> float:
    """Growth of the logarithm of cost with that of footprint over the half octaves on both sides."""
    low = high = at
    while low > 0 and points[at].bytes / points[low].bytes < 1.4:
        low -= 1
    while high + 1 < len(points) and points[high].bytes / points[at].bytes < 1.4:
        high += 1
    return math.log(costs[high] / costs[low]) / math.log(points[high].bytes / points[low].bytes)


def _median(costs: Sequence[float], run: tuple[int, int]) -> float:
    return statistics.median(costs[run[0] : run[1] + 1])


def _crossing(points: Sequence[Point], costs: Sequence[float], run: tuple[int, int], cost: float) -> float:
    """Footprint at which the curve first reaches `cost` behind the start of a run."""
    for at in range(run[0] + 1, len(points)):
        if costs[at] >= cost:
            share = (cost - costs[at - 1]) / (costs[at] - costs[at - 1])
            return float(points[at - 1].bytes * (points[at].bytes / points[at - 1].bytes) ** share)
    return float(points[-1].bytes)
