"""The one table format of microbenchmarks, for processors and for GPUs: what one thing costs.

It knows numbers and their spread, and nothing of how they are taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

LEAST_CYCLES = 0.15
"""A step cheaper than this was not done: no core starts more than six scalar instructions a cycle. In logs of
arXiv 2402.13499 functions that a compiler had dropped stand with 0.03 cycles."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one instruction, hop or event costs.

    Parameters
    ----------
    name, suite : what it is; latency, throughput, memory, sync or os
    width_bits : of the registers; 0 where none are meant
    cores : that did it at the same time: processors, or multiprocessors of a GPU
    ns : median of one, in the calmest pass
    cycles : the same in cycles of the core's own clock; None where no core counts them
    rate, unit : what all cores together reach in a second, `op/s` or `B/s`; 0 and "" for a latency
    n : samples in all passes
    median_ns, iqr_ns : over all of them: their distance from `ns` says how calm it was
    method : how it was measured
    detail : chains, data, footprint and whatever else the name leaves open
    """

    name: str
    suite: str
    width_bits: int
    cores: int
    ns: float
    cycles: float | None
    rate: float
    unit: str
    n: int
    median_ns: float
    iqr_ns: float
    method: str
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def per_cycle(self) -> float:
        """How many a core starts in a cycle; 0 where no cycles are known."""
        return 1 / self.cycles if self.cycles else 0.0

    @property
    def label(self) -> str:
        return f"{self.name} {self.width_bits}" if self.width_bits else self.name

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def from_dict(data: Mapping[str, Any]) -> Row:
    """A row as a profile holds it.

    Raises
    ------
    KeyError : a field is missing
    """
    return Row(**{each.name: data[each.name] for each in fields(Row)})


@dataclass(frozen=True, slots=True)
class Spread:
    """Samples of one figure, taken in passes.

    Parameters
    ----------
    calmest : the lowest median of a pass, because neighbours and interrupts only add time; of ten passes and
        more the lowest tenth is left out, for a clock that rises between two readings takes some away
    """

    calmest: float
    median: float
    iqr: float
    n: int


def spread(passes: Sequence[Sequence[float]]) -> Spread:
    """The figures of samples, one inner sequence a pass, none empty."""
    every = sorted(value for one in passes for value in one)
    low, high = quantile(every, 0.25), quantile(every, 0.75)
    medians = sorted(statistics.median(one) for one in passes)
    return Spread(medians[len(passes) // 10], statistics.median(every), high - low, len(every))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation in sorted values."""
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)
