"""What an operator takes at least, from measured ceilings or from a data sheet."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from trimtab._native import micro
from trimtab.machine.measures import stream
from trimtab.machine.micro.costs import Costs
from trimtab.machine.micro.rows import Row, from_dict
from trimtab.machine.profile import Profile, Section
from trimtab.machine.roofline import Ceilings
from units.operators import Operator

UNITS = {"int8": ("dpbusd", "int8"), "bf16": ("dpbf16", "bf16"), "f32": ("fma_f32", "float32")}
SAMPLES = 60
"""Of each unit beside an operator: a millisecond, so that its mean holds disturbances as an operator does."""


def beside(operator: Operator, section: Mapping[str, Any], cpus: Sequence[int]) -> tuple[Ceilings, Costs]:
    """Units and bandwidth of one operator at this moment, as they are and not as they could be.

    Parameters
    ----------
    section : `peak_units`; says which number of chains is best
    cpus : that the operator runs on
    """
    rows = [from_dict(row) for row in section["rows"]]
    alone = [row for row in rows if row.suite == "throughput" and row.cores == 1]
    best = {row.label: row for row in alone if row.detail["data"] == "random"}
    peaks = []
    for name, unit in UNITS.values():
        label = f"{name} 512"
        rate = (
            len(cpus)
            * best[label].rate
            * best[label].ns
            / _now(best[label], best[label].detail["chains"], cpus)
        )
        peaks.append({"unit": unit, "class": "register", "threads": len(cpus), "median": rate})
    used = {label for phase in operator.phases for label in phase if label != "bytes"}
    throughput = {label: _now(best[label], best[label].detail["chains"], cpus) for label in used}
    chained = {r.label: r for r in rows if r.suite == "latency"}
    latency = {label: _now(chained[label], 1, cpus) for label in operator.chained if label in chained}
    if "store_forward 512" in operator.chained:
        latency["store_forward 512"] = _mean(micro.time("forward", 512, 1, SAMPLES, list(cpus)))
    bandwidth = stream.measure(
        dtypes=("f64",), sizes=[max(4096, int(operator.working_set_bytes))], threads=[len(cpus)], quick=True
    )
    typical = [{**row, "bytes_per_s": row["median_bytes_per_s"]} for row in bandwidth["rows"]]
    date = datetime.now(UTC).isoformat()
    profile = Profile.empty().with_section("peak", Section({"rows": peaks}, date))
    profile = profile.with_section("bandwidth", Section({**bandwidth, "rows": typical}, date))
    return Ceilings.of(profile, len(cpus)), Costs(throughput, latency, 1e9)


def _now(row: Row, chains: int, cpus: Sequence[int]) -> float:
    return _mean(micro.time(row.name, row.width_bits, chains, SAMPLES, list(cpus)))


def _mean(timed: Sequence[Sequence[tuple[float, float, float]]]) -> float:
    """Nanoseconds of one, over all samples of all processors."""
    return statistics.fmean(ns for one in timed for _, ns, _ in one)


def measured_seconds(operator: Operator, ceilings: Ceilings, costs: Costs) -> tuple[float, str]:
    """Least time by measured ceilings, and what sets it: memory, arithmetic, or instructions."""
    roof = ceilings.bound(
        operator.ops, operator.bytes, operator.unit, working_set_bytes=operator.working_set_bytes,
        pattern=operator.pattern, regions=operator.regions,
    )  # fmt: skip
    issue = 0.0
    for phase in operator.phases:
        count = dict(phase)
        streamed = count.pop("bytes", 0.0) / ceilings.rate(operator.working_set_bytes, operator.pattern)
        issue += costs.seconds(count, loading_s=streamed)
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
    return not label.startswith(("load", "store", "broadcast", "bytes"))
