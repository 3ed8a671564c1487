"""What an operator takes at least, from measured ceilings or from a data sheet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from trimtab.machine import stream
from trimtab.machine.micro.costs import Costs
from trimtab.machine.profile import Profile, Section
from trimtab.machine.roofline import Ceilings
from units.operators import Operator

UNITS = {"int8": "int8", "bf16": "bf16", "f32": "float32"}


def beside(operator: Operator, units: Mapping[str, Any]) -> Ceilings:
    """Peaks of a section `peak_units`, and the bandwidth of just this working set at this moment."""
    rows = [
        {"unit": UNITS[kind], "class": "register", "threads": threads, "median": peak[key]}
        for kind, peak in units["peaks"].items()
        if kind in UNITS
        for threads, key in {1: "one", operator.threads: "one" if operator.threads == 1 else "all"}.items()
    ]
    bandwidth = stream.measure(
        dtypes=("f64",),
        sizes=[max(4096, int(operator.working_set_bytes))],
        threads=[operator.threads],
        quick=True,
    )
    date = datetime.now(UTC).isoformat()
    profile = Profile.empty().with_section("peak", Section({"rows": rows}, date))
    return Ceilings.of(profile.with_section("bandwidth", Section(bandwidth, date)), operator.threads)


def measured_seconds(operator: Operator, ceilings: Ceilings, costs: Costs) -> tuple[float, str]:
    """Least time by measured ceilings, and what sets it: memory, arithmetic, or instructions."""
    roof = ceilings.bound(
        operator.ops, operator.bytes, operator.unit, working_set_bytes=operator.working_set_bytes,
        pattern=operator.pattern, regions=operator.regions,
    )  # fmt: skip
    issue = sum(costs.seconds(phase) for phase in operator.phases)
    chain = costs.seconds({}, operator.chained)
    return max(roof.seconds, issue) + chain, "instructions" if issue + chain > roof.seconds else roof.what


def sheet_seconds(operator: Operator, sheet: Mapping[str, float], lanes_ops: Mapping[str, float]) -> float:
    """The same roofline by a data sheet: its clock, its memory, one vector instruction a cycle."""
    ops, unit = operator.ops, operator.unit
    if not ops:  # what its instructions compute, as one would count without a table of instructions
        unit = "f32"
        ops = sum(
            count * 16 for phase in operator.phases for label, count in phase.items() if _computes(label)
        )
    peak = operator.threads * sheet["hz"] * lanes_ops[unit]
    return max(ops / peak, operator.bytes / sheet["memory_bytes_per_s"])


def _computes(label: str) -> bool:
    return not label.startswith(("load", "store", "broadcast"))
