from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trimtab.machine.quiet import Disturbance, Ticks, between, ticks, wait

STAT = """\
cpu  300 0 30 900 9 0 3 60 0 0
cpu0 100 5 10 300 3 1 1 20 0 0
cpu1 200 0 20 600 6 0 2 40 0 0
intr 1 2 3
"""


def test_only_the_allowed_processors_count(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(STAT)
    assert ticks(tmp_path / "stat", frozenset({0})) == Ticks(busy=117, idle=303, steal=20)
    assert ticks(tmp_path / "stat", frozenset({0, 1})) == Ticks(busy=339, idle=909, steal=60)


def test_no_counters_is_not_an_error(tmp_path: Path) -> None:
    assert ticks(tmp_path / "nothing") is None
    assert between(None, Ticks(1, 1, 1)) is None


def test_shares_are_of_the_time_between() -> None:
    assert between(Ticks(10, 10, 0), Ticks(40, 70, 10)) == Disturbance(busy=0.3, steal=0.1)


def test_waits_until_quiet_and_no_longer() -> None:
    slept: list[float] = []
    states = sequence([(0, 0), (9, 1), (9, 1), (9, 11)])
    seen = wait(60, read=lambda: next(states), sleep=slept.append, look_seconds=1)
    assert seen == Disturbance(0.0, 0.0)
    assert slept == [1, 1]


def test_patience_ends() -> None:
    slept: list[float] = []
    states = sequence([(10 * n, n) for n in range(100)])
    seen = wait(3, read=lambda: next(states), sleep=slept.append, look_seconds=1)
    assert seen is not None
    assert seen.busy > 0.5
    assert slept == [1, 1, 1]


def sequence(pairs: list[tuple[int, int]]) -> Iterator[Ticks]:
    return (Ticks(busy, idle, 0) for busy, idle in pairs)
