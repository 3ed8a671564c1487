"""Sessions of timings: what drifts does not count, what disagrees is repeated, what breaks off goes on."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gemm_case import KERNELS, law
from hypothesis import given
from hypothesis import strategies as st

from trimtab.machine.gemm import collect, plan, shapes
from trimtab.machine.gemm.blocking import DEFAULT, NAIVE, Blocking
from trimtab.machine.gemm.collect import ANCHORS, Row, Session, Stretch, Task
from trimtab.machine.gemm.measure import columns, rows_of
from trimtab.machine.gemm.shapes import Shape, grid

MANY, FEW = Task("int8", 2, Shape(512, 512, 512)), Task("bf16", 2, Shape(1, 512, 512))


class Fake:
    """Answers by the law, times a slowness that a test sets; counts the visits."""

    def __init__(self) -> None:
        self.slow = 1.0
        self.noise = 0.0
        self.visits: Counter[Task] = Counter()
        self.chance = random.Random(3)

    def seconds(self, task: Task, loops: int = 1) -> float:
        self.visits[task] += 1
        return law(task) * self.slow * (1 + self.noise * self.chance.random())

    def anchors(self) -> dict[str, float]:
        return {"compute": 1e-3 * self.slow, "memory": 2e-3 * self.slow}


def tasks(count: int = 30) -> list[Task]:
    return [Task("int8", 2, shape) for shape in grid(count)]


def quiet(text: str) -> None:
    """Say nothing."""


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "STRETCH_S", 0.0)


def test_every_task_is_visited_three_times() -> None:
    fake, session = Fake(), Session(None, {})
    collect.run(tasks(), fake, session, 60, quiet)  # type: ignore[arg-type]
    rows = session.rows()
    assert {row.task for row in rows} == set(tasks())
    assert all(row.n == collect.VISITS for row in rows)
    assert all(row.median_s == pytest.approx(law(row.task)) for row in rows)
    assert session.told()["visits"] == session.told()["visits_kept"] == 90


def test_visits_that_disagree_are_repeated() -> None:
    fake, session = Fake(), Session(None, {})
    fake.noise = 1.0
    collect.run(tasks(), fake, session, 60, quiet)  # type: ignore[arg-type]
    assert statistics.mean(row.n for row in session.rows()) > collect.VISITS + 1
    assert max(row.n for row in session.rows()) <= collect.MOST_VISITS


def test_a_budget_ends_it() -> None:
    fake, session = Fake(), Session(None, {})
    collect.run(tasks(), fake, session, -1, quiet)  # type: ignore[arg-type]
    assert not fake.visits
    assert session.rows() == []


def stretches(levels: list[tuple[float, float]]) -> Session:
    session = Session(None, {})
    for compute, memory in levels:
        look = {"compute": compute, "memory": memory}
        session.add(Stretch(look, 0.1, look, [(MANY, compute), (FEW, memory)]))
    return session


def test_drift_counts_against_what_it_concerns() -> None:
    """Memory grows slower for a while: products bound by arithmetic do not care."""
    session = stretches([(1.0, 1.0)] * 30 + [(1.0, 2.0)] * 15)
    visits = session.visits()
    assert len(visits[MANY]) == 45
    assert 28 <= len(visits[FEW]) <= 32
    assert statistics.median(visits[FEW]) == 1.0


def test_a_single_second_is_noise_and_not_drift() -> None:
    session = stretches(([(1.0, 1.0)] * 9 + [(1.5, 1.5)]) * 3)
    assert len(session.visits()[MANY]) == 30


def test_a_session_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    path, header = tmp_path / "session", {"machine": "this"}
    first = Fake()
    collect.run(tasks(10), first, Session(path, header), 60, quiet)  # type: ignore[arg-type]
    again = Session(path, header)
    assert {row.task for row in again.rows()} == set(tasks(10))
    second = Fake()
    collect.run(tasks(20), second, again, 60, quiet)  # type: ignore[arg-type]
    assert set(second.visits) == set(tasks(20)) - set(tasks(10))
    assert len(Session(path, header).stretches) == len(again.stretches)
    with path.open("a") as file:
        file.write('[{"compute"')  # killed in the middle of a line
    assert Session(path, header).stretches == []
    assert Session(tmp_path / "other", header).stretches == []
    assert Session(path, {"machine": "another"}).stretches == []
    again.end()
    assert not path.exists()


def test_tasks_fit_the_budget_and_the_wanted_come_first() -> None:
    wanted = [*shapes.llm(), *grid(60)]
    kernels = {format: KERNELS[format] for format in ("int8", "bf16", "q4+min")}
    small, large = (plan.tasks(kernels, (2, 1), wanted, budget) for budget in (10.0, 1000.0))
    assert 0 < sum(map(collect.cost_s, small)) <= 10.0
    assert len(set(large)) == len(large)
    assert {task.format for task in small} <= {"int8", "bf16"}
    assert {(task.format, task.threads) for task in large} == {(f, t) for f in kernels for t in (1, 2)}
    assert {task.shape for task in large if task[:2] == ("int8", 2) and task.blocking == DEFAULT} >= set(
        wanted
    )
    ways = Counter(task.shape for task in large if task[:2] == ("int8", 2))
    assert sum(count > plan.CHOICES / 2 for count in ways.values()) >= len(plan.choice_shapes()) / 2
    assert any(task.blocking == NAIVE for task in large)


BLOCKINGS = st.builds(
    Blocking, st.integers(0, 12), st.integers(0, 4), st.integers(0, 2**20), st.integers(0, 99)
)
ROWS = st.builds(
    Row, st.sampled_from(["int8", "q4/16+min"]), st.integers(1, 64),
    st.builds(Shape, st.integers(1, 9999), st.integers(1, 9999), st.integers(1, 9999), st.booleans()),
    BLOCKINGS, st.floats(1e-7, 10), st.floats(0, 1), st.integers(1, 9), st.floats(0, 100),
    st.sampled_from(["trimtab", "torch"]),
)  # fmt: skip


@given(st.lists(ROWS, max_size=5))
def test_rows_survive_as_columns(rows: list[Row]) -> None:
    again = rows_of(columns(rows))
    assert [row.task for row in again] == [row.task for row in rows]
    assert [(row.library, row.n) for row in again] == [(row.library, row.n) for row in rows]
    for one, other in zip(again, rows, strict=True):
        assert one.median_s == pytest.approx(other.median_s, rel=1e-5)


def test_real_products_are_timed_by_their_size() -> None:
    """The one test with a clock; hundreds of times the work must take at least ten times as long."""
    timer: Any = collect.Timer([1], loop_s=0.002)
    small, large = (timer.seconds(Task("int8", 1, Shape(m, 256, 256))) for m in (1, 1000))
    assert 0 < 10 * small < large
    assert set(timer.anchors()) == set(ANCHORS)
