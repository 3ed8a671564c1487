"""When threads keep waiting for each other, one of them may do better alone: measured, not assumed."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from trimtab import _native


def share_together(
    runs: int,
    seconds: Callable[[bool, int], float],
    stalls: int,
    kinds: tuple[int, ...] = (1,),
    rule: object = None,
) -> float:
    """Of so many runs, the share that all threads took part in; `seconds` says what a run takes."""
    crowding, draw, together = rule or _native.Crowding(), random.Random(0), 0
    for _ in range(runs):
        kind = draw.choice(kinds)
        team = crowding.together(kind)
        together += team
        crowding.ran(seconds(team, kind) * draw.uniform(0.9, 1.1), stalls if team else 0)
    return together / runs


def test_healthy_runs_are_shared() -> None:
    """Not even one trial when threads seldom fall asleep."""
    for stalls in (0, 1, 3):
        assert share_together(500, lambda team, kind: 1 if team else 9, stalls) == 1


@pytest.mark.parametrize("kinds", [(1,), (1, 2, 3, 4), tuple(range(20))])
def test_waiting_for_each_other_ends(kinds: tuple[int, ...]) -> None:
    assert share_together(3000, lambda team, kind: kind * (5.0 if team else 1.0), 50, kinds) < 0.35
    assert share_together(3000, lambda team, kind: 5.0 if team else 1.0, 50, (7,)) < 0.05


def test_stalls_that_cost_little_change_nothing() -> None:
    """A neighbour on one processor: waits are many, and two threads are still the faster way."""
    assert share_together(3000, lambda team, kind: 1.0 if team else 1.2, 50) > 0.95


def test_the_crowd_leaves() -> None:
    rule = _native.Crowding()
    assert share_together(2000, lambda team, kind: 5.0 if team else 1.0, 50, rule=rule) < 0.1
    share_together(
        600, lambda team, kind: 1.0 if team else 1.8, 0, rule=rule
    )  # until the next question at most
    assert share_together(500, lambda team, kind: 1.0 if team else 1.8, 0, rule=rule) == 1


def test_kinds_that_never_come_again() -> None:
    """A trial without a second run of its kind is given up."""
    crowding = _native.Crowding()
    for kind in range(2000):
        assert crowding.together(kind) or kind
        crowding.ran(1.0, 50)
    assert share_together(100, lambda team, kind: 1.0, 0, rule=crowding) > 0.5
