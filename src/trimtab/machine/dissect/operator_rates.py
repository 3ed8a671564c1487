"""What to expect of each kind of operation: rates and fixed costs, fitted to a reference model's operators.

A roofline says what is possible; a small operation also pays for being started and shared out, and no kernel
reaches the peak. So for each kind the profile keeps a rate of arithmetic, a rate of bytes and a fixed cost,
measured on a model of other sizes (`trimtab.evaluate.operators`), and a step takes

    sum over operations of max(operations / rate, bytes / rate) + fixed cost

Knows samples and fits; what runs to give them is not known here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.errors import NotMeasured
from trimtab.machine.dissect.work import Shape, Work, work
from trimtab.machine.profile import DAY_S, Profile

SECTION = "operators"
ROWS = (1, 8, 48)
"""Rows of a product up to which a class goes; what has more is the last class."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Of one kind of operation. A rate that was never the limit is infinite, and kept as 0."""

    fixed_s: float
    ops_per_s: float = 0.0
    bytes_per_s: float = 0.0

    def seconds(self, done: Work) -> float:
        arithmetic = done.total_ops / self.ops_per_s if self.ops_per_s else 0.0
        memory = done.streamed_bytes / self.bytes_per_s if self.bytes_per_s else 0.0
        return max(arithmetic, memory) + self.fixed_s


@dataclass(frozen=True, slots=True)
class Sample:
    """One operation as it ran: its kind by `key_of`, its work, the median of its times."""

    key: str
    ops: float
    streamed_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class OperatorRates:
    """Rates by key."""

    rates: Mapping[str, Rate]

    @classmethod
    def of(
        cls, profile: Profile, threads: int | None = None, *, max_age_s: float = 30 * DAY_S,
        allow_noisy: bool = False,
    ) -> OperatorRates:  # fmt: skip
        """Read them.

        Parameters
        ----------
        threads : that they are wanted for; default: whatever they were measured with

        Raises
        ------
        NotMeasured : the section `operators` is missing, stale or noisy, or of other threads
        """
        data = profile.need(SECTION, max_age_s=max_age_s, allow_noisy=allow_noisy)
        if threads not in (None, data.get("threads")):
            raise NotMeasured(
                f"operations were measured on {data.get('threads')} threads, not on {threads}",
                "use as many threads, or go by the ceilings",
            )
        return cls({name: Rate(**each) for name, each in data["rates"].items()})

    def to_data(self) -> dict[str, Any]:
        return {"rates": {name: asdict(each) for name, each in self.rates.items()}}

    def seconds(self, operation: Mapping[str, Any], shape: Shape) -> float:
        """What to expect of one operation.

        Raises
        ------
        NotMeasured : nothing of its kind was measured
        """
        if operation["kind"] == "attend" and shape.kind == "mixed":
            return sum(self.seconds(operation, part) for part in _by_stage(shape))
        key = key_of(operation, shape)
        rate = self.rates.get(key)
        if rate is None:
            known = [name for name in self.rates if name.split(",")[0] == key.split(",")[0]]
            if not known:
                raise NotMeasured(
                    f"nothing like `{key}` was measured", "measure it: `trimtab measure --only operators`"
                )
            rate = self.rates[known[-1]]
        return rate.seconds(work(operation, shape))

    def step_seconds(self, operations: Sequence[Mapping[str, Any]], shape: Shape) -> float:
        """What to expect of a whole step."""
        known: dict[tuple[Any, ...], float] = {}
        total = 0.0
        for operation in operations:
            same = tuple(value for name, value in operation.items() if name not in ("module", "layer"))
            if same not in known:
                known[same] = self.seconds(operation, shape)
            total += known[same]
        return total


def key_of(operation: Mapping[str, Any], shape: Shape) -> str:
    """The kind of an operation: what it does, in which format, for how many rows."""
    kind = str(operation["kind"])
    if kind in ("multiply", "gated"):
        return f"product {_base(operation)}, {_class(shape.rows)}"
    if kind == "head":
        how = "sketched" if shape.sketched and operation["sketch_bytes"] else "sampled"
        return f"head {_base(operation)} {how}, {_class(shape.wanted)}"
    if kind == "attend":
        return f"attend {operation['kv_type']}, {'decode' if shape.kind == 'decode' else 'prefill'}"
    if kind == "rope_store":
        return f"rope_store {operation['kv_type']}"
    return kind


def fit(samples: Iterable[Sample]) -> OperatorRates:
    """Rates of every kind among the samples; sizes within a kind should differ."""
    by_key: dict[str, list[Sample]] = {}
    for sample in samples:
        by_key.setdefault(sample.key, []).append(sample)
    rates: dict[str, Rate] = {}
    # A product of one row is all memory: its rate of bytes and its fixed cost hold for more rows too.
    for key in sorted(by_key, key=lambda name: not name.endswith(f", {ROWS[0]}")):
        found = by_key[key]
        head, _, last = key.partition(", ")
        if head.startswith(("product", "head")):
            if last == str(ROWS[0]):
                fixed, rate = _line([(each.streamed_bytes, each.seconds) for each in found])
                rates[key] = Rate(fixed, bytes_per_s=rate)
                continue
            base = rates.get(f"{head}, {ROWS[0]}", Rate(0.0))
            left = [each.ops / max(each.seconds - base.fixed_s, each.seconds / 10) for each in found]
            rates[key] = Rate(base.fixed_s, statistics.median(left), base.bytes_per_s)
        elif head.startswith("attend") and last == "decode":
            fixed, rate = _line([(each.streamed_bytes, each.seconds) for each in found])
            rates[key] = Rate(fixed, bytes_per_s=rate)
        else:
            fixed, rate = _line([(each.ops, each.seconds) for each in found])
            rates[key] = Rate(fixed, ops_per_s=rate)
    return OperatorRates(rates)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(fixed, rate) of seconds = fixed + amount / rate by least relative error, neither negative."""
    weights = [1 / seconds for _, seconds in points]
    a11 = sum(w * w for w in weights)
    a12 = sum(w * w * x for w, (x, _) in zip(weights, points, strict=True))
    a22 = sum(w * w * x * x for w, (x, _) in zip(weights, points, strict=True))
    b1 = sum(weights)
    b2 = sum(w * x for w, (x, _) in zip(weights, points, strict=True))
    determinant = a11 * a22 - a12 * a12
    if determinant > 1e-9 * a11 * a22:
        fixed = (b1 * a22 - b2 * a12) / determinant
        slope = (a11 * b2 - a12 * b1) / determinant
        if fixed >= 0 and slope > 0:
            return fixed, 1 / slope
        if slope <= 0:
            return b1 / a11, 0.0
    return (0.0, a22 / b2) if b2 else (b1 / a11, 0.0)


def _class(rows: int) -> str:
    return next((str(most) for most in ROWS if rows <= most), "more")


def _base(operation: Mapping[str, Any]) -> str:
    name = str(operation["format"])
    return name[: min(i for i in (name.find("/"), name.find("+"), len(name)) if i >= 0)]


def _by_stage(shape: Shape) -> Iterable[Shape]:
    """A mixed step's decoding and prompts apart."""
    for parts in ([p for p in shape.spans if p[0] == 1], [p for p in shape.spans if p[0] > 1]):
        rows = sum(part[0] for part in parts)
        if parts:
            yield Shape(rows, rows if parts[0][0] == 1 else 0, parts)


def errors(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """Relative errors without their sign: median and worst."""
    found = [abs(one / other - 1) for one, other in zip(predicted, measured, strict=True)]
    if not found:
        return {"median": math.nan, "worst": math.nan}
    return {"median": statistics.median(found), "worst": max(found)}
