from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from trimtab.errors import UsageError
from trimtab.machine.probe import Limits
from trimtab.machine.rounds import Ask, Contender, Contest, Race, spread
from trimtab.machine.worker import Worker, WorkerFailed

LIMITS = Limits(1, 100.0, 100.0, 100.0, "x", 100.0, "x")


class Fake:
    """Answers with speeds from a list, and writes down when it was asked."""

    def __init__(self, name: str, speeds: Mapping[str, float], diary: list[str], fails_at: int = 99) -> None:
        self.name, self.speeds, self.diary, self.fails_at, self.runs = name, speeds, diary, fails_at, 0
        self.closed = False

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        if op == "load":
            return {"loaded": True}
        self.runs += 1
        if self.runs >= self.fails_at or arguments.get("way") == "broken":
            raise WorkerFailed(f"{self.name} broke")
        self.diary.append(f"{self.name}{arguments['number']}")
        return {"speed": self.speeds[arguments.get("way", "")]}

    def close(self) -> None:
        self.closed = True


def contest(workers: list[Fake], choices: Mapping[str, list[dict[str, str]]] | None = None) -> Contest:
    def starter(worker: Fake) -> Worker:
        return worker  # type: ignore[return-value]

    contenders = [
        Contender(each.name, lambda each=each: starter(each), {}, (choices or {}).get(each.name, [{}]))
        for each in workers
    ]
    return Contest(contenders, limits=lambda: LIMITS, patience_seconds=0, say=lambda line: None)


ASK = Ask("run", "run", lambda number: {"number": number}, lambda answer: answer["speed"])


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.machine.quiet.wait", lambda patience: None)


def test_everyone_runs_once_a_round_in_a_shifting_order() -> None:
    diary: list[str] = []
    with contest([Fake(name, {"": 10.0}, diary) for name in "abc"]) as started:
        race = started.race(ASK, 3)
    assert diary == ["a0", "b0", "c0", "b1", "c1", "a1", "c2", "a2", "b2", "a3", "b3", "c3"]
    assert {len(values) for values in race.values.values()} == {3}
    assert len(race.limits) == 3


def test_the_fastest_choice_stays_and_a_broken_one_does_not_matter() -> None:
    worker = Fake("a", {"slow": 1.0, "fast": 5.0}, [])
    ways = [{"way": "slow"}, {"way": "broken"}, {"way": "fast"}]
    with contest([worker], {"a": ways}) as started:
        race = started.race(ASK, 2)
    assert race.settings == {"a": {"way": "fast"}}
    assert race.values == {"a": [5.0, 5.0]}


def test_a_contender_that_breaks_is_left_out_and_named() -> None:
    diary: list[str] = []
    bad = Fake("b", {"": 10.0}, diary, fails_at=3)
    with contest([Fake("a", {"": 10.0}, diary), bad]) as started:
        race = started.race(ASK, 3)
        assert started.absent == {"b": "b broke"}
    assert set(race.values) == {"a"}
    assert bad.closed


def test_nobody_left_is_an_error() -> None:
    with (
        contest([Fake("a", {"": 1.0}, [], fails_at=1)]) as started,
        pytest.raises(UsageError, match="contender"),
    ):
        started.race(ASK, 1)


def test_those_far_behind_run_one_round_only() -> None:
    workers = [Fake("trimtab", {"": 1.0}, []), Fake("fast", {"": 10.0}, []), Fake("slow", {"": 2.0}, [])]
    with contest(workers) as started:
        race = started.race(ASK, 4)
    assert {name: len(values) for name, values in race.values.items()} == {"trimtab": 4, "fast": 4, "slow": 1}
    assert race.ratio("trimtab", "slow") == 0.5


def test_ratios_are_taken_inside_a_round() -> None:
    race = Race("x", {"a": [10.0, 30.0, 20.0], "b": [5.0, 10.0, 20.0]}, {"a": [{}] * 3}, [LIMITS] * 3, [], {})
    assert race.ratio("a", "b") == 2.0
    assert race.fastest(besides="a") == "b"
    assert race.limit_fraction("a", lambda limits, _: limits.read_bytes_per_s) == 0.2


def test_races_by_turns_join_into_one() -> None:
    diary: list[str] = []
    fast, slow = Fake("trimtab fast", {"": 10.0}, diary), Fake("trimtab slow", {"": 5.0}, diary)
    with contest([fast, slow]) as started:
        turns = [[started.race(ASK, 1, [name]) for name in started.workers] for _ in range(3)]
    one, other = (Race.joined(races) for races in zip(*turns, strict=True))
    assert (one.values, other.values) == ({"trimtab fast": [10.0] * 3}, {"trimtab slow": [5.0] * 3})
    assert len(one.limits) == len(one.noise) == len(one.answers["trimtab fast"]) == 3
    assert [name[8] for name in diary] == ["f", "f", "s", "s"] * 3


def test_spread() -> None:
    assert spread([5.0]) == 0.0
    assert spread([9.0, 10.0, 11.0]) == pytest.approx(0.2)
    assert spread([1.0, 10.0, 10.0, 10.0, 100.0]) == 0.0
