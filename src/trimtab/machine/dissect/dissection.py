"""Where the time and the memory of a recorded run went: tables whose sums are held against the whole.

Four tables from one recording: the engine's thread (what it did between its first step and its last), the
operators of the steps by stage and module with the least time of each, the requests by stage, and memory by
category. Each says how much of what was observed from outside its rows add up to. It reads recordings and
ceilings and starts nothing.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from trimtab.errors import NotMeasured
from trimtab.machine import spans
from trimtab.machine.dissect.operator_rates import OperatorRates
from trimtab.machine.dissect.step_cost import CLASSES, StepCost, arithmetic_seconds, step_cost
from trimtab.machine.dissect.steps import Steps, steps_of
from trimtab.machine.dissect.work import Shape
from trimtab.machine.roofline import Ceilings
from trimtab.machine.spans import Recording

SCHEMA = "dissection/1"
WARM_STEPS = 3
"""First steps of a kind that are left out of the tables: they touch memory for the first time."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request from outside, in seconds after it was sent."""

    first_s: float
    total_s: float


def dissect(
    recording: Recording, ceilings: Ceilings | None = None, *, basis: str = "profile",
    rates: OperatorRates | None = None, seen: Mapping[str, Seen] | None = None, warm: int = WARM_STEPS,
) -> dict[str, Any]:  # fmt: skip
    """Close the budget of a recorded run.

    Parameters
    ----------
    ceilings : of this machine; without them operators have no bound
    basis : where the ceilings are from: `profile` or `probe`
    rates : what operations take here, for the predicted steps; without them those are sums of bounds
    seen : requests as their client saw them, by the answer's id
    warm : steps of each stage to leave out of operators and predictions
    """
    steps = steps_of(recording)
    kept = _kept(steps, warm)
    costs = {} if ceilings is None else _costs(recording, steps, ceilings)
    facts = {name: value for name, value in recording.facts.items() if name not in ("memory", "requests")}
    facts["formats"] = sorted({str(each["format"]) for each in recording.operations if "format" in each})
    facts["kv_type"] = next((each["kv_type"] for each in recording.operations if "kv_type" in each), None)
    return {
        "schema": SCHEMA,
        "stage": recording.facts.get("stage", "serve"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "facts": facts,
        "ceilings": None if ceilings is None else _told(ceilings, basis),
        "steps": {
            "count": len(steps.shapes), "left_out": steps.left_out, "dropped_events": recording.dropped,
            "stages": _stages(steps, kept),
        },
        "engine": engine_table(recording, steps),
        "server": server_table(recording),
        "modules": operator_table(recording, steps, kept, costs, by=_module_of),
        "operators": operator_table(recording, steps, kept, costs, by=_operator_of),
        "threads": thread_table(steps),
        "requests": request_table(recording, seen or {}),
        "memory": memory_table(recording.facts.get("memory", {})),
        "prediction": _prediction(recording, steps, kept, costs, ceilings, rates),
    }  # fmt: skip


# --- the engine's thread ----------------------------------------------------------------------------------


def engine_table(recording: Recording, steps: Steps) -> dict[str, Any]:
    """What the engine's thread did from its first step to the end of its last, and what nothing accounts for.

    `closure` is the sum of the rows over the time that has passed, which the rows' spans do not know.
    """
    lane = next((lane for lane in recording.lanes if len(lane.of(spans.STEP))), None)
    if lane is None:
        return {"wall_s": 0.0, "rows": [], "closure": None}
    whole = lane.of(spans.STEP)
    begin, end = int(whole["begin"].min()), int(whole["end"].max())
    seconds: dict[str, float] = {}
    counts: dict[str, int] = {}
    for number in spans.ENGINE:
        found = lane.of(number)
        inside = found[(found["begin"] >= begin) & (found["end"] <= end)]
        if len(inside):
            seconds[spans.NAMES[number]] = float((inside["end"] - inside["begin"]).sum()) * 1e-9
            counts[spans.NAMES[number]] = len(inside)
    rows: list[dict[str, Any]] = [
        {"part": name, "calls": counts[name], "seconds": value}
        for name, value in seconds.items()
        if name != "step"
    ]
    rows += _inside_steps(steps, seconds.get("step", 0.0), counts.get("step", 0))
    wall = (end - begin) * 1e-9
    for row in rows:
        row["share"] = row["seconds"] / wall if wall else 0.0
    total = sum(row["seconds"] for row in rows)
    return {"wall_s": wall, "rows": rows, "closure": total / wall if wall else None}


def _inside_steps(steps: Steps, step_s: float, calls: int) -> list[dict[str, Any]]:
    """A step is its operations, what the program does around them, and the way from Python and back."""
    if not len(steps.shapes):
        return [{"part": "step", "calls": calls, "seconds": step_s}] if step_s else []
    # Steps whose operators are not known are taken to be made of what the others are made of.
    run, operations = float(steps.run_s.sum()), float(steps.seconds.sum())
    known = len(steps.shapes) / max(1, calls)
    scale = 1.0 / known if known else 0.0
    rows = [("operations", operations * scale), ("around the operations", (run - operations) * scale)]
    call = step_s - run * scale
    return [
        {"part": name, "calls": calls, "seconds": value}
        for name, value in [*rows, ("call into the program", max(0.0, call))]
    ]


def server_table(recording: Recording) -> list[dict[str, Any]]:
    """What making and writing text took, in the threads that answer."""
    rows = []
    for number in (spans.DETOKENIZE, spans.WRITE):
        found = [events for _, events in recording.spans(number)]
        if found:
            seconds = sum(float((events["end"] - events["begin"]).sum()) for events in found) * 1e-9
            rows.append({"part": spans.NAMES[number], "calls": sum(map(len, found)), "seconds": seconds})
    return rows


# --- operators --------------------------------------------------------------------------------------------


def operator_table(
    recording: Recording, steps: Steps, kept: Mapping[str, Any], costs: Mapping[int, StepCost], *, by: Any
) -> list[dict[str, Any]]:
    """One row for each stage and operator (or module), the most time first.

    `share` is of the stage's steps, program's overhead included; the rows of a stage sum to what the engine
    spends in operators. `wait_s` is of the thread that starts the steps, inside the same time.
    """
    rows: list[dict[str, Any]] = []
    names = [by(operation) for operation in recording.operations]
    for stage, chosen in kept.items():
        if not len(chosen):
            continue
        whole = float(steps.run_s[chosen].sum())
        times = steps.seconds[chosen].sum(axis=0)
        waits = steps.waits[0][chosen].sum(axis=0) if 0 in steps.waits else np.zeros_like(times)
        grouped: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            grouped.setdefault(name, []).append(number)
        for name, numbers in grouped.items():
            seconds = float(times[numbers].sum())
            row: dict[str, Any] = {
                "stage": stage, "name": name, "calls": len(numbers) * len(chosen), "seconds": seconds,
                "share": seconds / whole if whole else 0.0, "wait_s": float(waits[numbers].sum()),
            }  # fmt: skip
            if costs:
                row |= _worked(costs, chosen.tolist(), numbers, seconds)
            rows.append(row)
    totals = {stage: sum(row["seconds"] for row in rows if row["stage"] == stage) for stage in kept}
    return sorted(rows, key=lambda row: (-totals[row["stage"]], row["stage"], -row["seconds"]))


def _worked(
    costs: Mapping[int, StepCost], steps: Iterable[int], numbers: Sequence[int], seconds: float
) -> dict[str, Any]:
    """FLOPs, bytes and the bound of some operators over some steps, and how close they came."""
    ops = moved = bound = 0.0
    limits = dict.fromkeys(CLASSES, 0.0)
    for step in steps:
        found = costs[step]
        for number in numbers:
            done, least = found.works[number], found.costs[number]
            ops += done.total_ops
            moved += done.total_bytes
            bound += least.seconds
            limits[least.limited_by] += least.seconds
    return {
        "flops": ops, "bytes": moved,
        "gflops_per_s": ops / seconds * 1e-9 if seconds else 0.0,
        "gbytes_per_s": moved / seconds * 1e-9 if seconds else 0.0,
        "bound_s": bound, "of_bound": bound / seconds if seconds else 0.0,
        "class": max(limits, key=lambda name: limits[name]),
    }  # fmt: skip


def _operator_of(operation: Mapping[str, Any]) -> str:
    """`layers.*.mlp.down`; layers are equal, so they are one row."""
    name = re.sub(r"\blayers\.\d+\.", "layers.*.", str(operation["module"]))
    return f"{name} pack" if operation["kind"] == "pack" else name


def _module_of(operation: Mapping[str, Any]) -> str:
    """`attn`, `mlp`, `embed`, `head`."""
    found = re.match(r"layers\.\d+\.(\w+)", str(operation["module"]))
    return found[1] if found else str(operation["module"]).partition(".")[0]


def thread_table(steps: Steps) -> list[dict[str, Any]]:
    """How long each thread of the pool worked and waited while steps ran."""
    whole = float(steps.run_s.sum())
    return [
        {
            "worker": worker, "seconds": whole, "wait_s": float(waits.sum()),
            "wait_share": float(waits.sum()) / whole if whole else 0.0,
        }
        for worker, waits in sorted(steps.waits.items())
    ]  # fmt: skip


# --- requests ---------------------------------------------------------------------------------------------


def request_table(recording: Recording, seen: Mapping[str, Seen]) -> dict[str, Any]:
    """Every request by stage, and the sum of its stages over what its client saw.

    The stages are the server's own spans: what lies outside them, on the way from the client and back, is
    missing from the sum, which is the point of the comparison.
    """
    stages: dict[int, dict[str, float]] = {}
    until_first: dict[int, float] = {}
    for number in spans.STAGES:
        for _, found in recording.spans(number):
            for begin, end, _, request in found.tolist():
                stages.setdefault(request, {})[spans.NAMES[number]] = (end - begin) * 1e-9
                if number == spans.PREFILL:
                    until_first[request] = end
    written: dict[int, int] = {}
    for _, found in recording.spans(spans.WRITE):
        for _, end, _, request in found.tolist():
            written[request] = min(end, written.get(request, end))
    rows: list[dict[str, Any]] = []
    for told in recording.facts.get("requests", ()):
        number = told["number"]
        if number not in stages or told.get("status") != 200:
            continue
        row = {**told, "stages": stages[number], "server_s": sum(stages[number].values())}
        first = [value for name, value in stages[number].items() if name not in ("decode", "deliver")]
        if number in written and number in until_first:
            row["first_s"] = sum(first) + max(0, written[number] - until_first[number]) * 1e-9
        if told["id"] in seen:
            client = seen[told["id"]]
            row |= {"client_s": client.total_s, "closure": row["server_s"] / client.total_s}
            if "first_s" in row:
                row |= {"client_first_s": client.first_s, "first_closure": row["first_s"] / client.first_s}
        rows.append(row)
    names = [spans.NAMES[number] for number in spans.STAGES]
    return {
        "rows": rows,
        "medians": {
            name: statistics.median(row["stages"].get(name, 0.0) for row in rows)
            for name in names
            if any(name in row["stages"] for row in rows)
        },
        "closure": _median(row.get("closure") for row in rows),
        "first_closure": _median(row.get("first_closure") for row in rows),
    }


def memory_table(memory: Mapping[str, int]) -> dict[str, Any]:
    """Categories that are counted one by one, against what is resident."""
    if not memory.get("resident"):
        return {"rows": [], "closure": None}
    names = (
        "weights",
        "pages",
        "scratch",
        "recorder",
        "python",
        "process",
        "gradients",
        "optimizer",
        "activations",
    )
    resident = memory["resident"]
    rows: list[dict[str, Any]] = [
        {"category": name, "bytes": memory[name], "share": memory[name] / resident}
        for name in names
        if name in memory
    ]
    extra = {name: memory[name] for name in ("resident", "highest", "reserved") if name in memory}
    return {"rows": rows, **extra, "closure": sum(row["bytes"] for row in rows) / resident}


# --- steps and predictions --------------------------------------------------------------------------------


def _kept(steps: Steps, warm: int) -> dict[str, Any]:
    """The steps of each stage without the first ones, unless there are no others."""
    found = {}
    for stage in ("decode", "prefill", "mixed"):
        of = np.flatnonzero(steps.of(stage)) if len(steps.shapes) else np.zeros(0, np.int64)
        if len(of):
            found[stage] = of[warm:] if len(of) > 2 * warm else of
    return found


def _stages(steps: Steps, kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage, "steps": len(chosen),
            "rows": statistics.fmean(steps.shapes[i].rows for i in chosen),
            "step_s": float(np.median(steps.run_s[chosen])), "seconds": float(steps.run_s[chosen].sum()),
            "closure": float(steps.seconds[chosen].sum() / steps.run_s[chosen].sum()),
        }
        for stage, chosen in kept.items()
        if len(chosen)
    ]  # fmt: skip


def _costs(recording: Recording, steps: Steps, ceilings: Ceilings) -> dict[int, StepCost]:
    return {
        place: step_cost(recording.operations, shape, ceilings) for place, shape in enumerate(steps.shapes)
    }


def _prediction(
    recording: Recording, steps: Steps, kept: Mapping[str, Any], costs: Mapping[int, StepCost],
    ceilings: Ceilings | None, rates: OperatorRates | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Each stage's median step against the sum over its operators, and against arithmetic alone."""
    rows: list[dict[str, Any]] = []
    if ceilings is None:
        return rows
    for stage, chosen in kept.items():
        if not len(chosen):
            continue
        measured = float(np.median(steps.run_s[chosen]))
        shapes = [steps.shapes[i] for i in chosen.tolist()]
        by, expected = _expected(recording, shapes, ceilings, rates)
        predicted = statistics.median(expected)
        by_flops = statistics.median(arithmetic_seconds(costs[i].works, ceilings) for i in chosen.tolist())
        rows.append(
            {
                "stage": stage, "measured_s": measured, "predicted_s": predicted, "by": by,
                "by_flops_s": by_flops,
                "error": predicted / measured - 1, "error_by_flops": by_flops / measured - 1,
            }
        )  # fmt: skip
    return rows


def _expected(
    recording: Recording, shapes: Sequence[Shape], ceilings: Ceilings, rates: OperatorRates | None
) -> tuple[str, list[float]]:
    """What steps should take by what is known best, and what that is."""
    operations = recording.operations
    if rates is not None:
        # A format or a cache type that nobody measured leaves the bounds.
        with suppress(NotMeasured):
            return "rates", [rates.step_seconds(operations, shape) for shape in shapes]
    costs = (step_cost(operations, shape, ceilings, of_shape=True) for shape in shapes)
    return "bounds", [each.seconds for each in costs]


def _told(ceilings: Ceilings, basis: str) -> dict[str, Any]:
    return {
        "basis": basis, "threads": ceilings.threads, "region_s": ceilings.region_s,
        "peaks": {f"{unit}, {kind}": value for (unit, kind), value in ceilings.peaks.items()},
        "memory_bytes_per_s": ceilings.rate(2.0**40),
    }  # fmt: skip


def _median(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None
