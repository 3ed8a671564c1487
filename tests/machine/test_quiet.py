from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.errors import Busy
from trimtab.machine.quiet import Disturbance, Look, Ticks, between, insist, load_limit, look, ticks, wait

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


CALM = Look(0.1, Disturbance(0.02, 0.0))
LOADED = Look(1.83, Disturbance(0.02, 0.0))
BUSY = Look(0.1, Disturbance(0.43, 0.0), ("cc1plus 17: 92%",))
ROBBED = Look(0.1, Disturbance(0.0, 0.2))
BLIND = Look(None, None)


def told(looks: list[Look], patience_s: float) -> tuple[Look, list[str]]:
    """What `insist` finds when every look takes a second."""
    heard: list[str] = []
    now = 0.0
    states = iter(looks)

    def one() -> Look:
        nonlocal now
        now += 1
        return next(states)

    return insist(patience_s, heard.append, looking=one, clock=lambda: now), heard


def test_a_quiet_machine_is_not_kept_waiting() -> None:
    assert told([CALM], 0) == (CALM, [])
    assert told([BLIND], 0) == (BLIND, [])  # a system that tells nothing is taken as it is


def test_it_waits_for_calm_and_says_once_for_what() -> None:
    seen, heard = told([LOADED, LOADED, BUSY, CALM], 10)
    assert seen == CALM
    assert len(heard) == 2
    assert "1.83" in heard[0]
    assert "43%" in heard[1]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (LOADED, "load average is 1.83"),
        (BUSY, r"43% of the processors.*cc1plus 17: 92%"),
        (ROBBED, "hypervisor"),
    ],
)
def test_it_refuses_a_machine_that_stays_busy(state: Look, words: str) -> None:
    with pytest.raises(Busy, match=words) as error:
        told([state] * 9, 3)
    assert "--patience" in error.value.hint
    assert "--force" in error.value.hint


def test_the_load_may_be_a_share_of_many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, most in ((1, 0.5), (2, 0.5), (64, 3.2)):
        allowed = frozenset(range(processors))
        monkeypatch.setattr("trimtab.machine.quiet._allowed", lambda allowed=allowed: allowed)
        assert load_limit() == pytest.approx(most)


def test_a_look_names_who_is_busy() -> None:
    loud = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", loud]) as process:
        try:
            for _ in range(20):  # a busy machine may not let it run at once
                seen = look(0.3)
                if any(f" {process.pid}:" in each for each in seen.busiest):
                    break
            else:
                pytest.fail(f"{process.pid} is not among {seen.busiest}")
        finally:
            process.kill()
    assert seen.load is not None
    assert seen.shares is not None
    assert seen.shares.busy > 0


def sequence(pairs: list[tuple[int, int]]) -> Iterator[Ticks]:
    return (Ticks(busy, idle, 0) for busy, idle in pairs)
