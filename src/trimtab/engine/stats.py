"""Figures of a running engine: latency histograms and a recent rate, cheap enough for every step."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Any, NamedTuple

TTFT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TPOT_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

RECENT = 512
"""Ended requests whose exact latencies are kept."""


class Ended(NamedTuple):
    """Latencies of one ended request, in seconds; `at` by the engine's clock, `tpot` None for one token."""

    at: float
    ttft: float
    tpot: float | None


class Histogram:
    """Counts of values up to each bound, their number and their sum."""

    __slots__ = ("_bounds", "_counts", "count", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.count = 0
        self.sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.count += 1
        self.sum += value

    def snapshot(self) -> dict[str, Any]:
        """`count`, `sum` and `buckets`: (upper bound, values up to it), the last bound infinite."""
        buckets, total = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return {"count": self.count, "sum": self.sum, "buckets": buckets}


class Rate:
    """Events a second over the last ten seconds or so."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque(maxlen=11)

    def mark(self, now: float, total: int) -> None:
        """Note a running total; at most one mark a second is kept."""
        if not self._marks or now - self._marks[-1][0] >= 1.0:
            self._marks.append((now, total))

    def per_second(self, now: float, total: int) -> float:
        """The rate up to `now`; 0 before the first mark."""
        marks = [mark for mark in tuple(self._marks) if now - mark[0] <= 11.0]
        if not marks or now <= marks[0][0]:
            return 0.0
        return (total - marks[0][1]) / (now - marks[0][0])
