"""The least time a piece of work can take on the machine of a profile, and what sets it.

`Ceilings` are read from a profile once; `bound` divides work by them. Work is operations, bytes, and how
often the threads have to meet; what the work is for is not known here. Every figure comes from a measured
section, so a profile that lacks one, or has it stale or noisy, is refused by `Profile.need`.

What is read of the sections:

- `peak`: `rows`, each with `unit` (int8, bf16, float32; of products also a weight format), `class`
  (`register`, or the shape class of a matrix product: `one row`, `few rows`, `many rows`), `threads` and
  `median` in operations a second
- `bandwidth`: `rows`, each with `pattern` (`read`, `copy`, ...), `threads`, `working_set_bytes` and
  `bytes_per_s` as the program counts them; `region_s`, seconds of an empty parallel region by executor, or by
  threads
- `latency`, only for work with dependent loads: `curves` of `bytes` and `ns`
- `machine.caches` names the level a working set lies in
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.errors import NotMeasured, UnknownName, UsageError
from trimtab.machine.profile import DAY_S, Profile

UNITS = ("int8", "bf16", "float32")
"""What arithmetic is counted by; an operation is a multiply or an add."""

_UNIT_OF = {"q4": "int8", "q8": "int8", "int8": "int8", "bf16": "bf16", "float32": "float32"}
REGISTER = "register"
FEW_ROWS = 8
"""Most rows of a matrix product of the class `few rows`; what has more is `many rows`."""

MAX_AGE_S = 30 * DAY_S


@dataclass(frozen=True, slots=True)
class Bound:
    """The least time of a piece of work.

    Parameters
    ----------
    seconds : arithmetic, memory and dependent loads at once, and then what starting and meeting costs
    limited_by : `compute`, `bandwidth`, `latency` or `dispatch`: the largest of the four
    level : where the bytes come from: `L1`, `L2`, `L3`, `memory`
    parts : seconds of each of the four, alone
    """

    seconds: float
    limited_by: str
    level: str
    parts: Mapping[str, float]

    @property
    def what(self) -> str:
        """The limit in words: `compute`, `L2 bandwidth`, `memory latency`, `dispatch`."""
        if self.limited_by in ("bandwidth", "latency"):
            return f"{self.level} {self.limited_by}"
        return self.limited_by


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a number of threads can do at most.

    Parameters
    ----------
    peaks : (unit, class) -> operations a second
    rates : pattern -> (working set in bytes, bytes a second), ascending
    levels : (name, bytes that these threads can hold there), smallest first; beyond the last is memory
    region_s : starting all threads on a piece of work and waiting for them
    chase : (working set in bytes, seconds of one dependent load), ascending; empty when it was not measured
    """

    threads: int
    peaks: Mapping[tuple[str, str], float]
    rates: Mapping[str, Sequence[tuple[float, float]]]
    levels: Sequence[tuple[str, float]]
    region_s: float
    chase: Sequence[tuple[float, float]] = field(default=())

    @classmethod
    def of(
        cls, profile: Profile, threads: int, *, max_age_s: float = MAX_AGE_S, allow_noisy: bool = False
    ) -> Ceilings:
        """Read the ceilings of `threads` threads.

        Raises
        ------
        NotMeasured : `peak` or `bandwidth` is missing, stale, noisy, or without this number of threads
        """
        strict: Any = {"max_age_s": max_age_s, "allow_noisy": allow_noisy}
        peak, bandwidth = profile.need("peak", **strict), profile.need("bandwidth", **strict)
        peaks = {
            (str(row["unit"]), str(row["class"])): float(row["median"])
            for row in _of_threads(peak["rows"], threads, "peak")
        }
        rates: dict[str, list[tuple[float, float]]] = {}
        for row in _of_threads(bandwidth["rows"], threads, "bandwidth"):
            point = (float(row["working_set_bytes"]), float(row["bytes_per_s"]))
            rates.setdefault(str(row["pattern"]), []).append(point)
        chase = chase_points(profile.need("latency", **strict)) if "latency" in profile.sections else []
        return cls(
            threads,
            peaks,
            {pattern: sorted(dict(points).items()) for pattern, points in rates.items()},
            cache_levels(profile.machine, threads),
            _region_s(bandwidth.get("region_s"), threads),
            chase,
        )

    def peak(self, dtype: str, rows: int | None = None) -> float:
        """Operations a second of a unit or a weight format; of a matrix product with so many rows, if given.

        Without `rows` it is what the registers do; a class that was not measured falls back to that.
        """
        unit, name = unit_of(dtype), _base(dtype)
        top = self.peaks.get((unit, REGISTER))
        if rows is not None:
            shape = class_of(rows)
            top = self.peaks.get((name, shape), self.peaks.get((unit, shape), top))
        if top is None:
            raise NotMeasured(f"the peak of {unit} was not measured here", "measure it: `trimtab measure`")
        return top

    def rate(self, working_set_bytes: float, pattern: str = "read") -> float:
        """Bytes a second from a working set of this size; between measured sizes on a line of logarithms."""
        if pattern not in self.rates:
            raise UnknownName(f"no pattern {pattern!r} was measured", f"there is {', '.join(self.rates)}")
        return between(self.rates[pattern], working_set_bytes)

    def level(self, working_set_bytes: float) -> str:
        """Where a working set of this size lies."""
        return next((name for name, size in self.levels if working_set_bytes <= size), "memory")

    def bound(
        self, ops: float, bytes: float, dtype: str = "int8", *, working_set_bytes: float | None = None,
        pattern: str = "read", rows: int | None = None, regions: float = 0, loads: float = 0,
    ) -> Bound:  # fmt: skip
        """The least time of this work; see `bound`."""
        if min(ops, bytes, regions, loads) < 0 or not math.isfinite(ops + bytes + regions + loads):
            raise UsageError("work is counted from 0", "give operations, bytes, regions and loads as numbers")
        size = bytes if working_set_bytes is None else working_set_bytes
        parts = {
            "compute": ops / self.peak(dtype, rows) if ops else 0.0,
            "bandwidth": bytes / self.rate(size, pattern) if bytes else 0.0,
            "latency": loads * self._load_s(size) if loads else 0.0,
            "dispatch": regions * self.region_s,
        }
        seconds = max(parts["compute"], parts["bandwidth"], parts["latency"]) + parts["dispatch"]
        return Bound(seconds, max(parts, key=lambda name: parts[name]), self.level(size), parts)

    def _load_s(self, working_set_bytes: float) -> float:
        if not self.chase:
            raise NotMeasured(
                "the latency of loads was not measured here", "measure it: `trimtab measure micro`"
            )
        return between(self.chase, working_set_bytes)


def bound(
    ops: float, bytes: float, dtype: str, threads: int, profile: Profile, *,
    working_set_bytes: float | None = None, pattern: str = "read", rows: int | None = None,
    regions: float = 0, loads: float = 0,
) -> Bound:  # fmt: skip
    """The least time of a piece of work on the machine of a profile, and what sets it.

    Whoever asks often makes `Ceilings.of(profile, threads)` once and asks its `bound`.

    Parameters
    ----------
    ops : operations; a multiply-add is two
    bytes : read, or counted as `pattern` counts them
    dtype : int8, bf16, float32, or a weight format (`q4`, `q8/16+min`), which is multiplied as integers
    working_set_bytes : what is gone through before these bytes come again, the weights of a whole model for
        example; decides from which level they come. Default: `bytes`
    rows : of a matrix product; its shape class then sets the peak instead of the registers
    regions : times that all threads start and meet
    loads : dependent loads in a row, each waiting for the one before

    Raises
    ------
    NotMeasured : the profile lacks a section this needs, or has it stale or noisy
    UnknownName : no such dtype or pattern
    UsageError : a negative amount of work

    References: roofline model, CACM 52(4), 2009; arXiv 2402.13499 for where the ceilings come from.
    """
    return Ceilings.of(profile, threads).bound(
        ops, bytes, dtype, working_set_bytes=working_set_bytes, pattern=pattern, rows=rows, regions=regions,
        loads=loads,
    )  # fmt: skip


def unit_of(dtype: str) -> str:
    """The arithmetic of a type or weight format: `q4+min` is multiplied as int8."""
    name = _base(dtype)
    if name not in _UNIT_OF:
        raise UnknownName(f"no arithmetic for {dtype!r}", f"there is {', '.join(_UNIT_OF)}")
    return _UNIT_OF[name]


def _base(dtype: str) -> str:
    return re.split(r"[/+]", dtype, maxsplit=1)[0]


def class_of(rows: int) -> str:
    """The shape class of a matrix product with so many rows."""
    if rows < 1:
        raise UsageError(f"a product of {rows} rows", "rows are counted from 1")
    return "one row" if rows == 1 else "few rows" if rows <= FEW_ROWS else "many rows"


def cache_levels(machine: Mapping[str, Any], threads: int) -> list[tuple[str, float]]:
    """(level, bytes these threads hold there): the first two levels are each core's own, the rest shared."""
    found = []
    for name, text in machine.get("caches", {}).items():
        match = re.fullmatch(r"(L[1-9])d?", name)
        size = re.fullmatch(r"(\d+)([KMG]?)", str(text))
        if match and size:
            whole = int(size[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[size[2]]
            found.append((match[1], float(whole * (threads if match[1] in ("L1", "L2") else 1))))
    return sorted(found, key=lambda level: level[1])


def chase_points(latency: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(working set in bytes, seconds of one dependent load) out of the section `latency`, ascending.

    Of the curve in random order; with huge pages, as weights are held, where the system gave them.
    """
    curves = latency.get("curves", {})
    names = ["random_2m", "random_4k"] if latency.get("huge_share", 1) > 0.5 else ["random_4k", "random_2m"]
    points = next((curves[name] for name in names if curves.get(name)), ())
    return sorted({float(each["bytes"]): float(each["ns"]) * 1e-9 for each in points}.items())


def _of_threads(rows: Iterable[Mapping[str, Any]], threads: int, section: str) -> list[Mapping[str, Any]]:
    chosen = [row for row in rows if row["threads"] == threads]
    if not chosen:
        raise NotMeasured(
            f"`{section}` was not measured with {threads} threads",
            f"measure it: `trimtab measure --only {section}`",
        )
    return chosen


def _region_s(told: Any, threads: int) -> float:
    """Region cost as told: a number, or a mapping whose entries are that or rows by thread count."""
    if isinstance(told, Mapping):
        told = told.get(str(threads), told.get("fork-join", told.get("fork_join")))
        return _region_s(told, threads)
    return float(told) if isinstance(told, int | float) and threads > 1 else 0.0


def between(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value at `at`, linear in logarithms between the points and constant beyond them."""
    index = bisect.bisect_left(points, (at, -math.inf))
    if index == 0 or index == len(points):
        return points[min(index, len(points) - 1)][1]
    (x0, y0), (x1, y1) = points[index - 1], points[index]
    share = math.log(at / x0) / math.log(x1 / x0)
    return math.exp(math.log(y0) + share * math.log(y1 / y0))
