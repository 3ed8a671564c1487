"""Figures of a running engine: latency histograms and a recent rate, cheap enough for every step."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from trimtab.errors import Busy

if TYPE_CHECKING:
    from trimtab.engine.sequence import Sequence

TTFT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TPOT_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

RECENT = 512
"""Ended requests whose exact latencies are kept."""
ENDS = ("stop", "length", "cancelled", "failed", "refused")
"""How a request may end."""


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


class Ledger:
    """What requests went through: how long they waited, ran and took for a token, and how they ended.

    Parameters
    ----------
    now : seconds by the engine's clock, when it started
    """

    def __init__(self, now: float) -> None:
        self._started_at = now
        self._queued = Histogram(TTFT_BOUNDS_S)
        self._ttft = Histogram(TTFT_BOUNDS_S)
        self._tpot = Histogram(TPOT_BOUNDS_S)
        self._rate = Rate()
        self._ends: Counter[str] = Counter()
        self._recent: deque[Ended] = deque(maxlen=RECENT)

    def started(self, sequence: Sequence, now: float) -> None:
        """A request enters its first step."""
        sequence.started_at = now
        self._queued.add(now - sequence.submitted_at)

    def answered(self, sequence: Sequence, now: float) -> None:
        """Its first token, or what it gives instead, is there."""
        sequence.first_at = now
        if not sequence.pooling:
            self._ttft.add(now - sequence.submitted_at)

    def ended(self, sequence: Sequence, now: float) -> None:
        """It is over, however that came."""
        sequence.finished_at = now
        outputs = len(sequence.tokens) - sequence.prompt_length
        tpot = (now - sequence.first_at) / (outputs - 1) if outputs > 1 else None
        if tpot is not None:
            self._tpot.add(tpot)
        if outputs:
            self._recent.append(Ended(now, sequence.first_at - sequence.submitted_at, tpot))
        if sequence.error is not None:
            self._ends["refused" if isinstance(sequence.error, Busy) else "failed"] += 1
        else:
            self._ends[sequence.finish or "cancelled"] += 1

    def refused(self) -> None:
        """One was turned away at once."""
        self._ends["refused"] += 1

    def step(self, now: float, output_tokens: int) -> None:
        """A step has ended; `output_tokens` is their number since the start."""
        self._rate.mark(now, output_tokens)

    def recent(self) -> tuple[Ended, ...]:
        """The last requests that ended with output, oldest first."""
        return tuple(self._recent)

    def snapshot(self, now: float, output_tokens: int) -> dict[str, Any]:
        """All of it, for people and for metrics."""
        return {
            "output_tokens_per_s": self._rate.per_second(now, output_tokens),
            "requests": {end: self._ends[end] for end in ENDS},
            "queue_s": self._queued.snapshot(),
            "ttft_s": self._ttft.snapshot(),
            "tpot_s": self._tpot.snapshot(),
            "uptime_s": now - self._started_at,
        }
