"""A dissection in the terminal, and its file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.text import print_table, size
from trimtab.errors import NotMeasured

if TYPE_CHECKING:
    from trimtab.machine.dissect.operator_rates import OperatorRates
    from trimtab.machine.roofline import Ceilings
    from trimtab.machine.spans import Recording

LEAST_SHARE = 0.002
"""Operators below this share of their stage are one row."""


def ceilings_for(recording: Recording) -> tuple[Ceilings, str, str]:
    """The ceilings of the machine here with the recording's threads: (ceilings, basis, why no profile)."""
    from trimtab.machine import probe
    from trimtab.machine.dissect.step_cost import probed
    from trimtab.machine.profile import Profile
    from trimtab.machine.roofline import Ceilings

    threads = int(recording.facts.get("threads", 1))
    try:
        return Ceilings.of(Profile.load(), threads), "profile", ""
    except NotMeasured as error:
        return probed(probe.measure(threads)), "probe", error.message


def rates_for(recording: Recording) -> OperatorRates | None:
    """What operations take here with the recording's threads, where the machine's profile knows it."""
    from trimtab.machine.dissect.operator_rates import OperatorRates
    from trimtab.machine.profile import Profile

    try:
        return OperatorRates.of(Profile.load(), int(recording.facts.get("threads", 1)))
    except NotMeasured:
        return None


def save(found: Mapping[str, Any], path: Path) -> Path:
    """Write a dissection in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".dissect.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1, ensure_ascii=False, allow_nan=False)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def show(found: Mapping[str, Any]) -> None:
    """All tables, the whole before its parts."""
    facts, steps = found["facts"], found["steps"]
    print(f"{facts.get('model', '')}: {steps['count']} steps on {facts.get('threads', '?')} threads")
    if steps["left_out"] or steps["dropped_events"]:
        print(
            f"{steps['left_out']} steps are not in the tables of operators: "
            f"{steps['dropped_events']} events did not fit the recorder"
        )
    _requests(found["requests"])
    _engine(found["engine"])
    if found["modules"]:
        _operators("MODULE", found["modules"], found["steps"]["stages"])
        _operators("OPERATOR", found["operators"], found["steps"]["stages"])
    _threads(found["threads"])
    _prediction(found)
    _memory(found["memory"])


def _requests(requests: Mapping[str, Any]) -> None:
    medians = requests["medians"]
    if not medians:
        return
    total = sum(medians.values())
    rows = [[name, _ms(value), _percent(value / total)] for name, value in medians.items()]
    print(f"\nrequests, median of {len(requests['rows'])}{_sums(requests['closure'], 'what the client saw')}")
    if requests["first_closure"] is not None:
        print(f"until the first text{_sums(requests['first_closure'], 'what the client saw')}")
    print_table(["STAGE", "MS", "SHARE"], rows)


def _engine(engine: Mapping[str, Any]) -> None:
    if not engine["rows"]:
        return
    print(
        f"\nthe engine's thread, {engine['wall_s']:.3f} s{_sums(engine['closure'], 'the time that passed')}"
    )
    rows = [
        [
            row["part"],
            str(row["calls"]),
            f"{row['seconds'] / max(1, row['calls']) * 1e6:.1f}",
            _percent(row["share"]),
        ]
        for row in sorted(engine["rows"], key=lambda row: -row["seconds"])
    ]
    print_table(["PART", "CALLS", "US EACH", "SHARE"], rows)


def _operators(title: str, rows: list[dict[str, Any]], stages: list[dict[str, Any]]) -> None:
    for stage in stages:
        steps, closure = stage["steps"], stage["closure"]
        print(
            f"\n{stage['stage']}, {steps} steps of {stage['rows']:.4g} rows and {_ms(stage['step_s'])} ms"
            f"{_sums(closure, 'the steps')}"
        )
        table, rest = [], 0.0
        for row in rows:
            if row["stage"] != stage["stage"]:
                continue
            if row["share"] < LEAST_SHARE:
                rest += row["seconds"]
                continue
            table.append(
                [
                    row["name"], str(row["calls"] // max(1, steps)), f"{row['seconds'] / steps * 1e3:.3f}",
                    _percent(row["share"]), _percent(row["wait_s"] / row["seconds"] if row["seconds"] else 0),
                    *(
                        [
                            f"{row['gflops_per_s']:.1f}", f"{row['gbytes_per_s']:.1f}",
                            f"{row['bound_s'] / steps * 1e3:.3f}", _percent(row["of_bound"]), row["class"],
                        ]
                        if "bound_s" in row
                        else []
                    ),
                ]
            )  # fmt: skip
        if rest:
            table.append(["the rest", "", f"{rest / steps * 1e3:.3f}", _percent(rest / stage["seconds"])])
        worked = bool(table) and len(table[0]) > 5
        columns = [title, "CALLS", "MS/STEP", "SHARE", "WAITING"]
        columns += ["GFLOP/S", "GB/S", "BOUND MS", "OF BOUND", "CLASS"] if worked else []
        print_table(columns, [row + [""] * (len(columns) - len(row)) for row in table])


def _threads(threads: list[dict[str, Any]]) -> None:
    if len(threads) > 1:
        told = ", ".join(f"worker {row['worker']} {_percent(row['wait_share'])}" for row in threads)
        print(f"\nwaiting at barriers: {told}")


def _prediction(found: Mapping[str, Any]) -> None:
    for row in found["prediction"]:
        print(
            f"{row['stage']} step: {_ms(row['measured_s'])} ms measured, {_ms(row['predicted_s'])} ms by the "
            f"{row['by']} of its operators ({row['error']:+.0%}), {_ms(row['by_flops_s'])} ms by arithmetic "
            "alone"
        )


def _memory(memory: Mapping[str, Any]) -> None:
    if not memory["rows"]:
        return
    print(f"\nmemory, {size(memory['resident'])} resident{_sums(memory['closure'], 'it')}")
    print_table(
        ["CATEGORY", "SIZE", "SHARE"],
        [[row["category"], size(row["bytes"]), _percent(row["share"])] for row in memory["rows"]],
    )


def _sums(closure: float | None, whole: str) -> str:
    return "" if closure is None else f"; the rows sum to {closure:.1%} of {whole}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"


def _percent(share: float) -> str:
    return f"{share:.1%}"
