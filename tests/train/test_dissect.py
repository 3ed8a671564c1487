"""Every nanosecond of a step has one owner, and a gradient's owner is the module it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_model import tiny_config

from trimtab.train.cell import Cell, operators_of, run, table_of
from trimtab.train.costs import StepCosts
from trimtab.train.dissect import Event, attribute, dissect_step, labels_of
from trimtab.train.reference_steps import measure
from trimtab.train.trace import trace_step
from trimtab.train.trainer import Techniques, Trainer

LABELS = frozenset({"layers.0.down", "layers.1.down", "head"})


def test_a_gradient_belongs_to_the_module_of_its_forward_operator() -> None:
    events = [
        Event("stage.forward", 0, 100),
        Event("layers.0.down", 10, 50),
        Event("aten::mm", 20, 45, link=7),
        Event("stage.backward", 100, 200),
        Event("autograd::engine::evaluate_function: MmBackward0", 110, 190, link=7, backward=True),
        Event("aten::mm", 120, 180),
        Event("stage.optimizer", 200, 230),
    ]
    found = {
        (r.stage, r.module, r.operator): (r.calls, round(r.seconds * 1e9))
        for r in attribute(events, LABELS).rows
    }
    assert found == {
        ("forward", "layers.0.down", "python"): (1, 15),
        ("forward", "layers.0.down", "mm"): (1, 25),
        ("backward", "layers.0.down", "MmBackward0"): (1, 20),
        ("backward", "layers.0.down", "mm"): (1, 60),
        ("optimizer", "parameters", "python"): (0, 30),
    }
    assert attribute(events, LABELS).closure == pytest.approx(150 / 230)


def test_what_runs_again_for_a_gradient_is_recomputation() -> None:
    events = [
        Event("stage.backward", 0, 100),
        Event("autograd::engine::evaluate_function: X", 0, 90, link=1, backward=True),
        Event("head", 10, 60),
        Event("aten::mm", 20, 50, link=9),
    ]
    stages = {row.stage for row in attribute(events, LABELS).rows}
    assert stages == {"recompute"}


@st.composite
def trees(draw: st.DrawFn) -> list[Event]:
    """Properly nested events of one thread, by start and longest first."""
    events: list[Event] = []

    def fill(start: int, end: int, depth: int) -> None:
        at = start
        while at < end and depth < 5 and draw(st.booleans()):
            begin = draw(st.integers(at, end - 1))
            stop = draw(st.integers(begin + 1, end))
            name = draw(st.sampled_from(["aten::mm", "aten::add", *sorted(LABELS), "other"]))
            events.append(Event(name, begin, stop, draw(st.integers(-1, 5))))
            fill(begin, stop, depth + 1)
            at = stop

    at = 0
    for stage in ("forward", "backward", "optimizer"):
        length = draw(st.integers(1, 1000))
        events.append(Event(f"stage.{stage}", at, at + length))
        fill(at, at + length, 0)
        at += length
    events.sort(key=lambda e: (e.start, -e.end))
    return events


@given(trees())
def test_no_nanosecond_is_counted_twice(events: list[Event]) -> None:
    found = attribute(events, LABELS)
    whole = sum(e.end - e.start for e in events if e.name.startswith("stage."))
    assert round(found.step_seconds * 1e9) == whole
    assert all(row.seconds >= 0 for row in found.rows)
    assert sum(row.seconds for row in found.rows) <= found.step_seconds * (1 + 1e-9)


@pytest.mark.parametrize("codes", ["F", "R", "QL,F,R", "offload,F"])
def test_a_real_step_is_explained_by_its_modules(codes: str, tmp_path: Path) -> None:
    config = tiny_config()
    trainer = Trainer(config, None, Techniques.of(codes), folder=tmp_path)
    tokens = torch.zeros(2, 64, dtype=torch.int64)
    for _ in range(2):
        trainer.step(tokens)
    found = dissect_step(trainer, tokens)
    assert {row.module for row in found.rows} - {"parameters"} <= labels_of(trainer)
    for stage in ("forward", "backward"):
        modules = {row.module for row in found.rows if row.stage == stage}
        frozen = stage == "backward" and "QL" in codes
        assert {"layers.0.down", "layers.1.attention", "loss", *([] if frozen else ["embed"])} <= modules
    assert ("recompute" in {row.stage for row in found.rows}) == ("R" in codes.split(","))
    assert found.closure > 0.7  # a step of a few milliseconds is mostly Python


def test_a_cell_is_plain_data_and_its_tables_add_up() -> None:
    config = tiny_config()
    costs = StepCosts.of(measure(quick=True))
    assert StepCosts.of(costs.as_dict()) == costs
    cell = Cell(config, None, Techniques.of("F"), batch=2, length=32)
    try:
        cell.warm()
        dissection = cell.dissection()
        whole = sum(row.seconds for row in dissection.rows)
        for by in ("module", "operator"):
            assert sum(row["seconds"] for row in table_of(dissection, by)) == pytest.approx(whole)
        rows = operators_of(dissection, cell.trace(), costs)
        product = next(row for row in rows if (row["stage"], row["operator"]) == ("forward", "mm"))
        assert product["operations"] > 0
        assert product["class"] in ("compute", "bandwidth", "dispatch")
        result = run(cell, costs, 2)
    finally:
        cell.close()
    assert result["techniques"] == "F"
    assert result["memory"]["allocated_peak"] >= result["memory"]["weights"]
    assert costs.arithmetic_seconds(trace_step(config, Techniques(), 1, 8)) > 0
