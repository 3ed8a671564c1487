"""Traces keep the format's rules and hold every span; the rules are tried on traces that break them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up import OPERATIONS, lane, recording

from trimtab.machine import spans
from trimtab.machine.dissect.chrome_trace import chrome_trace, faults, save
from trimtab.machine.spans import Recording

STEP = {"times": [100, 20, 300, 40, 10, 200, 500], "parts": [(2, 0), (1, 8)], "wanted": 1, "waits": 5}


def made() -> Recording:
    engine = recording([STEP, STEP])
    rows = [
        (1_000_000, 1_002_000, spans.PARSE, 1), (1_001_000, 1_004_000, spans.PARSE, 2),
        (1_002_000, 1_009_000, spans.QUEUE, 1), (1_004_000, 1_004_500, spans.WRITE, 2),
    ]  # fmt: skip
    return Recording([*engine.lanes, lane("MainThread", -1, rows)], OPERATIONS, {"model": "m"})


def test_a_trace_keeps_the_rules_and_loses_nothing() -> None:
    trace = json.loads(chrome_trace(made()))
    assert faults(trace) == []
    events = trace["traceEvents"]
    boxes = [event for event in events if event["ph"] == "X"]
    operations = [event for event in boxes if event["cat"] == "operation"]
    assert len(operations) == 2 * len(OPERATIONS)
    assert sum(event["dur"] for event in operations) == pytest.approx(2 * sum(STEP["times"]) / 1000)  # type: ignore[call-overload]
    assert {event["name"] for event in operations} >= {"layers.0.mlp.down multiply", "embed embed"}
    down = next(event for event in operations if event["name"].startswith("layers.0.mlp.down"))
    assert down["args"]["format"] == "q4"
    assert min(event["ts"] for event in events if "ts" in event) == 0
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {"engine", "MainThread"}
    assert sum(event["ph"] == "b" for event in events) == sum(event["ph"] == "e" for event in events) == 3
    assert {event["id"] for event in events if event["ph"] == "b"} == {1, 2}


def test_a_trace_is_written_in_one_piece(tmp_path: Path) -> None:
    path = save(made(), tmp_path / "a" / "t.json")
    assert faults(json.loads(path.read_bytes())) == []
    assert [each.name for each in path.parent.iterdir()] == ["t.json"]
    assert faults(json.loads(chrome_trace(Recording([])))) == []


def box(**more: Any) -> dict[str, Any]:
    return {"name": "a", "ph": "X", "ts": 0.0, "dur": 2.0, "pid": 1, "tid": 1, **more}


@pytest.mark.parametrize(
    "trace",
    [
        {}, 3, {"traceEvents": [3]}, {"traceEvents": [{"name": "a"}]}, [box(ts="0")], [box(dur=-1.0)],
        [{key: value for key, value in box().items() if key != "dur"}], [box(name=3)], [box(args=3)],
        [box(), box(ts=1.0)], [box(ph="b", cat="c", id=1)], [box(ph="b")], [box(ph="C", args={"v": "x"})],
        [box(ph="Z")],
    ],
)  # fmt: skip
def test_broken_traces_are_found_out(trace: Any) -> None:
    assert faults(trace)


def test_good_shapes_are_let_through() -> None:
    pair = [box(ph=phase, cat="c", id=1) for phase in "be"]
    assert faults([box(), box(ts=0.5, dur=1.5), box(ts=2.0), box(ts=1.0, tid=2), *pair]) == []
