"""Dissections of recordings whose times are known: nothing is lost, nothing is counted twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import CEILINGS, OPERATIONS, lane, recording, step_events

from trimtab.machine import spans
from trimtab.machine.dissect.dissection import Seen, dissect, engine_table, memory_table
from trimtab.machine.dissect.operator_rates import OperatorRates, Rate, key_of
from trimtab.machine.dissect.steps import steps_of
from trimtab.machine.dissect.work import Shape
from trimtab.machine.spans import Recording

TIMES = st.lists(st.integers(20, 5000), min_size=len(OPERATIONS), max_size=len(OPERATIONS))
STEP = st.builds(
    lambda times, rows, first, wanted, waits: {
        "times": times, "parts": [(rows, first)], "wanted": min(rows, wanted), "waits": waits,
    },
    TIMES, st.integers(1, 20), st.integers(0, 90), st.integers(1, 20), st.integers(0, 20),
)  # fmt: skip


@given(st.lists(STEP, min_size=1, max_size=6))
def test_every_nanosecond_of_a_step_is_in_one_row(steps: list[dict[str, Any]]) -> None:
    found = dissect(recording(steps), CEILINGS, warm=0)
    written = sum(sum(step["times"]) for step in steps)
    for table in ("operators", "modules"):
        assert sum(row["seconds"] for row in found[table]) == pytest.approx(written * 1e-9)
    waited = sum(step["waits"] * len(step["times"]) for step in steps)
    assert sum(row["wait_s"] for row in found["operators"]) == pytest.approx(waited * 1e-9)
    assert found["threads"][0]["wait_s"] == pytest.approx(waited * 1e-9)
    assert found["steps"]["count"] == len(steps)
    for stage in found["steps"]["stages"]:
        rows = [row for row in found["operators"] if row["stage"] == stage["stage"]]
        assert sum(row["share"] for row in rows) == pytest.approx(stage["closure"])
        assert all(row["of_bound"] == pytest.approx(row["bound_s"] / row["seconds"]) for row in rows)


@given(st.lists(STEP, min_size=1, max_size=5), st.integers(0, 3000))
def test_the_engines_thread_is_accounted_for(steps: list[dict[str, Any]], host: int) -> None:
    made = recording(steps, host=host)
    table = engine_table(made, steps_of(made))
    assert table["closure"] == pytest.approx(1.0)
    parts = {row["part"]: row["seconds"] for row in table["rows"]}
    assert parts["operations"] == pytest.approx(sum(sum(step["times"]) for step in steps) * 1e-9)
    assert parts["around the operations"] == pytest.approx(20e-9 * len(steps))
    assert parts["call into the program"] == pytest.approx(100e-9 * len(steps))
    if len(steps) > 1 and host:  # the first step's own are before the table begins
        assert parts["schedule"] == pytest.approx(host * 1e-9 * (len(steps) - 1))


def test_a_step_that_is_not_all_there_is_left_out_and_counted() -> None:
    good = {"times": [100] * len(OPERATIONS), "parts": [(1, 3)], "wanted": 1}
    made = recording([good, good, good])
    events = made.lanes[0].events
    second = np.flatnonzero(events["id"] == spans.FIRST_OPERATION + 2)[1]
    cut = Recording([lane("engine", 0, np.delete(events, second).tolist(), 1)], OPERATIONS)
    found = dissect(cut, CEILINGS, warm=0)
    assert (found["steps"]["count"], found["steps"]["left_out"]) == (2, 1)
    assert found["steps"]["dropped_events"] == 1
    assert engine_table(cut, steps_of(cut))["closure"] == pytest.approx(1.0)


def test_first_steps_of_a_stage_are_left_out() -> None:
    slow, fast = ({"times": [time] * len(OPERATIONS), "parts": [(1, 3)], "wanted": 1} for time in (5000, 100))
    found = dissect(recording([slow, slow, slow, *[fast] * 5]), CEILINGS)
    assert found["steps"]["stages"][0]["steps"] == 5
    assert sum(row["seconds"] for row in found["operators"]) == pytest.approx(5 * 7 * 100e-9)


def test_another_threads_waits_are_its_own() -> None:
    rows, end = step_events(1000, [100] * len(OPERATIONS), [(1, 0)], 1, waits=10)
    others = [
        (begin, stop, number, arg)
        for begin, stop, number, arg in step_events(1005, [100] * len(OPERATIONS), [(1, 0)], 1, waits=40)[0]
        if number == spans.BARRIER or number >= spans.FIRST_OPERATION
    ]
    assert end > max(row[1] for row in others if row[1] > 1000) - 10
    made = Recording([lane("engine", 0, rows), lane("worker 1", 1, others)], OPERATIONS)
    threads = {row["worker"]: row["wait_s"] for row in dissect(made, None, warm=0)["threads"]}
    assert threads == {0: pytest.approx(70e-9), 1: pytest.approx(280e-9)}


def test_without_ceilings_operators_have_times_only() -> None:
    found = dissect(recording([{"times": [9] * 7, "parts": [(1, 0)], "wanted": 1}]), None, warm=0)
    assert found["ceilings"] is None
    assert found["prediction"] == []
    assert "bound_s" not in found["operators"][0]


def test_steps_are_expected_by_rates_where_they_are_known() -> None:
    made = recording([{"times": [9] * 7, "parts": [(1, 0)], "wanted": 1}])
    kinds = {key_of(operation, Shape(1, 1, [(1, 0)])) for operation in OPERATIONS}
    rates = OperatorRates({kind: Rate(8e-6) for kind in kinds})
    (row,) = dissect(made, CEILINGS, rates=rates, warm=0)["prediction"]
    assert row["by"] == "rates"
    assert row["predicted_s"] == pytest.approx(7 * 8e-6)
    (unknown,) = dissect(made, CEILINGS, rates=OperatorRates({"norm": Rate(1e-6)}), warm=0)["prediction"]
    (without,) = dissect(made, CEILINGS, warm=0)["prediction"]
    assert unknown == without
    assert without["by"] == "bounds"


def test_a_recording_of_nothing() -> None:
    found = dissect(Recording([]), CEILINGS)
    assert found["steps"]["count"] == 0
    assert found["operators"] == found["modules"] == found["threads"] == []
    assert found["engine"]["closure"] is None
    assert found["requests"]["closure"] is None


def test_requests_are_held_against_what_their_client_saw() -> None:
    ms = 10**6
    at, rows = 5 * ms, []
    lasts = {
        spans.PARSE: 2, spans.TEMPLATE: 1, spans.TOKENIZE: 3, spans.SUBMIT: 1, spans.QUEUE: 4,
        spans.PREFILL: 20, spans.DECODE: 60, spans.DELIVER: 5,
    }  # fmt: skip
    for stage, length in lasts.items():
        rows.append((at, at + length * ms, stage, 7))
        at += length * ms
    first_written = 5 * ms + (2 + 1 + 3 + 1 + 4 + 20 + 2) * ms
    rows += [(first_written - ms, first_written, spans.WRITE, 7), (at - ms, at, spans.WRITE, 7)]
    facts = {"requests": [{"number": 7, "id": "a", "status": 200}, {"number": 8, "id": "b", "status": 200}]}
    made = Recording([lane("MainThread", -1, rows)], (), facts)
    table = dissect(made, None, seen={"a": Seen(0.0345, 0.1)})["requests"]
    (row,) = table["rows"]
    assert row["server_s"] == pytest.approx(0.096)
    assert row["closure"] == table["closure"] == pytest.approx(0.96)
    assert row["first_s"] == pytest.approx(0.033)
    assert table["first_closure"] == pytest.approx(33 / 34.5)
    assert table["medians"]["queue"] == pytest.approx(0.004)


def test_memory_is_summed_against_what_is_resident() -> None:
    table = memory_table({"weights": 60, "pages": 20, "python": 15, "resident": 100, "highest": 120})
    assert [row["category"] for row in table["rows"]] == ["weights", "pages", "python"]
    assert table["closure"] == pytest.approx(0.95)
    assert memory_table({})["closure"] is None
