"""Compares contenders in alternating rounds, and draws medians, ratios and spreads from them.

A shared machine has fast and slow minutes. So every contender runs once a round, in an order that shifts from
round to round, and ratios are taken inside a round. The ceilings are measured at the start of each round.
Contenders far behind the fastest run in the first round only: more of their time would tell nothing more.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trimtab.errors import UsageError
from trimtab.machine import quiet
from trimtab.machine.probe import Limits
from trimtab.machine.worker import Worker, WorkerFailed

Answer = dict[str, Any]

FAR_BEHIND = 0.5
"""A contender that has never reached this share of the fastest rival's best leaves after the first round."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One program at one setting of its model.

    Parameters
    ----------
    start : makes its process
    load : arguments of its `load` operation
    choices : settings that are tried before the rounds; the fastest is kept
    """

    name: str
    start: Callable[[], Worker]
    load: Mapping[str, Any] = field(default_factory=dict)
    choices: Sequence[Mapping[str, Any]] = ({},)


@dataclass(frozen=True, slots=True)
class Ask:
    """What every contender is asked to do.

    Parameters
    ----------
    label : name of this race in the report
    op : operation of the worker
    arguments : of round number r; the same for all contenders of the round, and new in every round
    value : what an answer is worth; more is better
    trial : arguments that make the runs shorter in which choices are tried
    """

    label: str
    op: str
    arguments: Callable[[int], Mapping[str, Any]]
    value: Callable[[Answer], float]
    trial: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Race:
    """The outcome of one Ask: per contender a value each round, beside the ceilings of the round.

    The lists of those who left early are shorter; all of them begin with the first round.
    """

    label: str
    values: dict[str, list[float]]
    answers: dict[str, list[Answer]]
    limits: list[Limits]
    noise: list[quiet.Disturbance | None]
    settings: dict[str, Mapping[str, Any]]

    @classmethod
    def joined(cls, races: Sequence[Race]) -> Race:
        """The rounds of several races of the same contenders as one."""
        first = races[0]
        return cls(
            first.label,
            {name: [value for race in races for value in race.values[name]] for name in first.values},
            {name: [answer for race in races for answer in race.answers[name]] for name in first.answers},
            [limits for race in races for limits in race.limits],
            [noise for race in races for noise in race.noise],
            first.settings,
        )

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def fastest(self, besides: str) -> str | None:
        """The contender with the highest median, other than those whose names begin with `besides`."""
        others = [name for name in self.values if not name.startswith(besides)]
        return max(others, key=self.median, default=None)

    def ratio(self, name: str, other: str) -> float:
        """Median over the rounds of how many times `other` fits into `name`."""
        pairs = zip(self.values[name], self.values[other], strict=False)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def limit_fraction(self, name: str, most: Callable[[Limits, Answer], float]) -> float:
        """Median share of the ceiling; `most` is what the ceilings allow for an answer."""
        rows = zip(self.values[name], self.limits, self.answers[name], strict=False)
        return statistics.median(value / most(limits, answer) for value, limits, answer in rows)

    def samples(self) -> dict[str, Any]:
        """Everything raw, for the Report."""
        return {
            "values": self.values,
            "limits": [limits.as_dict() for limits in self.limits],
            "noise": [None if each is None else asdict(each) for each in self.noise],
        }


class Contest:
    """Starts contenders and lets them race; a contender that fails is left out and named in `absent`.

    Parameters
    ----------
    limits : measures the ceilings
    patience_seconds : longest wait for a quiet machine before each round
    say : tells a person what goes on
    keep : beginning of the names that run in every round, and are nobody's rival
    """

    def __init__(
        self, contenders: Sequence[Contender], *, limits: Callable[[], Limits], patience_seconds: float,
        say: Callable[[str], None], keep: str = "trimtab",
    ) -> None:  # fmt: skip
        self._keep = keep
        self._limits, self._patience_seconds, self._say = limits, patience_seconds, say
        self.contenders = {contender.name: contender for contender in contenders}
        self.workers: dict[str, Worker] = {}
        self.loaded: dict[str, Answer] = {}
        self.absent: dict[str, str] = {}

    def __enter__(self) -> Contest:
        for contender in self.contenders.values():
            self._say(f"loading {contender.name}")
            worker = contender.start()
            self.workers[contender.name] = worker
            try:
                self.loaded[contender.name] = worker.call("load", **contender.load)
            except WorkerFailed as error:
                self._drop(contender.name, error)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def race(self, ask: Ask, rounds: int, only: Sequence[str] | None = None) -> Race:
        """Try each contender's choices once, then run `rounds` rounds; of all contenders or of some.

        Raises
        ------
        UsageError : no contender is left
        """
        settings, best = self._settle(ask, [name for name in self.workers if only is None or name in only])
        race = Race(ask.label, {n: [] for n in settings}, {n: [] for n in settings}, [], [], settings)
        for number in range(1, rounds + 1):
            arguments = ask.arguments(number)
            quiet.wait(self._patience_seconds)
            race.limits.append(self._limits())
            before = quiet.ticks()
            names = list(race.values) if number == 1 else self._in_the_running(race, best)
            turn = number % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                answer = self._try(name, ask.op, {**arguments, **settings[name]})
                if answer is None:
                    del race.values[name], race.answers[name]
                    continue
                race.values[name].append(ask.value(answer))
                best[name] = max(best[name], race.values[name][-1])
                race.answers[name].append(answer)
                self._say(f"{ask.label} {number}/{rounds}: {name} {race.values[name][-1]:.4g}")
            race.noise.append(quiet.between(before, quiet.ticks()))
        if not race.values:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.absent.items())
            raise UsageError("no contender could run", reasons)
        return race

    def _in_the_running(self, race: Race, best: Mapping[str, float]) -> list[str]:
        fastest = max((best[name] for name in race.values if not name.startswith(self._keep)), default=0.0)
        return [
            name for name in race.values
            if name.startswith(self._keep) or best[name] >= FAR_BEHIND * fastest
        ]  # fmt: skip

    def _settle(
        self, ask: Ask, names: Sequence[str]
    ) -> tuple[dict[str, Mapping[str, Any]], dict[str, float]]:
        """Each contender's fastest choice and its value; a single choice runs too, to warm up."""
        arguments = {**ask.arguments(0), **ask.trial}
        settings: dict[str, Mapping[str, Any]] = {}
        values: dict[str, float] = {}
        for name in names:
            best: Mapping[str, Any] | None = None
            fastest, problem = 0.0, WorkerFailed(f"{name} has no setting to run with")
            choices = self.contenders[name].choices
            for choice in choices:
                try:
                    # The first run of a setting pays for its set-up; the second one counts.
                    for _ in range(2 if len(choices) > 1 else 1):
                        answer = self.workers[name].call(ask.op, **{**arguments, **choice})
                except WorkerFailed as error:
                    problem = error
                    continue
                if best is None or ask.value(answer) > fastest:
                    best, fastest = choice, ask.value(answer)
            if best is None:
                self._drop(name, problem)
            else:
                settings[name], values[name] = best, fastest
                self._say(f"{ask.label}: {name} {fastest:.4g} with {dict(best) or 'its only setting'}")
        return settings, values

    def _try(self, name: str, op: str, arguments: Mapping[str, Any]) -> Answer | None:
        if name not in self.workers:
            return None
        try:
            return self.workers[name].call(op, **arguments)
        except WorkerFailed as error:
            self._drop(name, error)
            return None

    def _drop(self, name: str, error: WorkerFailed) -> None:
        self._say(f"{name} is out: {error.message}")
        self.absent[name] = error.message
        self.workers.pop(name).close()


def spread(values: Sequence[float]) -> float:
    """Width of the middle half of the values, as a share of their median; of all values when they are few."""
    if len(values) < 2:
        return 0.0
    middle = statistics.median(values)
    if len(values) < 4:
        return (max(values) - min(values)) / middle
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle
