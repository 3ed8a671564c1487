"""The least time of each operation of a step, and of the step: work divided by measured ceilings.

What a step streams (weights, cache) comes from where a whole step's bytes lie; what it works on was written a
moment ago and comes from where it fits. Arithmetic and memory overlap, starting and meeting does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.machine.dissect.work import Shape, Work, work
from trimtab.machine.probe import Limits, describe
from trimtab.machine.roofline import REGISTER, Ceilings, cache_levels

CLASSES = ("compute", "bandwidth", "latency/dispatch")


@dataclass(frozen=True, slots=True)
class Cost:
    """The least time of one operation, and which of `CLASSES` sets it."""

    seconds: float
    limited_by: str


def cost(done: Work, ceilings: Ceilings, streamed_bytes: float, *, of_shape: bool = False) -> Cost:
    """The least time of some work.

    Parameters
    ----------
    streamed_bytes : of the whole step, which decides from where the streamed part comes
    of_shape : a matrix product is held against what one of its shape class and format reached when the
        ceilings were measured, instead of against the registers' peak: what to expect, not the least
    """
    product = max(done.ops, key=lambda unit: done.ops[unit], default="") if done.rows else ""
    compute = 0.0
    for unit, ops in done.ops.items():
        shaped = of_shape and unit == product
        compute += ops / (ceilings.peak(done.format, done.rows) if shaped else ceilings.peak(unit))
    memory = 0.0
    if done.streamed_bytes:
        memory += done.streamed_bytes / ceilings.rate(max(streamed_bytes, done.streamed_bytes))
    if done.local_bytes:
        memory += done.local_bytes / ceilings.rate(done.local_bytes)
    dispatch = done.regions * ceilings.region_s
    parts = dict(zip(CLASSES, (compute, memory, dispatch), strict=True))
    return Cost(max(compute, memory) + dispatch, max(parts, key=lambda name: parts[name]))


@dataclass(frozen=True, slots=True)
class StepCost:
    """Work and cost of each operation of one step, in the program's order."""

    works: Sequence[Work]
    costs: Sequence[Cost]

    @property
    def seconds(self) -> float:
        return sum(each.seconds for each in self.costs)


def step_cost(
    operations: Sequence[Mapping[str, Any]], shape: Shape, ceilings: Ceilings, *, of_shape: bool = False
) -> StepCost:
    """Count a step's work and divide it; operations of equal sizes are counted once."""
    counted: dict[tuple[Any, ...], Work] = {}
    works = []
    for operation in operations:
        key = _key(operation)
        if key not in counted:
            counted[key] = work(operation, shape)
        works.append(counted[key])
    streamed = sum(each.streamed_bytes for each in works)
    known = {key: cost(each, ceilings, streamed, of_shape=of_shape) for key, each in counted.items()}
    return StepCost(works, [known[_key(operation)] for operation in operations])


def arithmetic_seconds(works: Sequence[Work], ceilings: Ceilings) -> float:
    """What a count of operations alone would say: all arithmetic at the peak of the registers."""
    return sum(ops / ceilings.peak(unit) for each in works for unit, ops in each.ops.items())


def probed(limits: Limits) -> Ceilings:
    """Ceilings of a quick probe, where there is no profile: one rate, register peaks, no cost of meeting."""
    peaks = {
        ("int8", REGISTER): limits.int8_ops_per_s,
        ("bf16", REGISTER): limits.float_ops_per_s,
        ("float32", REGISTER): limits.float_ops_per_s,
    }
    rate = [(1.0, limits.read_bytes_per_s)]
    levels = cache_levels({"caches": describe().caches}, limits.threads)
    return Ceilings(limits.threads, peaks, {"read": rate}, levels, 0.0)


def _key(operation: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(value for name, value in operation.items() if name not in ("module", "layer"))
