"""Times the products of a plan, in an order by chance, and throws away what a drifting machine spoiled.

A product is visited several times with minutes between, because a neighbour on the machine slows it for a
second at a time; its median stands. Two anchors, one bound by arithmetic and one by memory, are timed every
few seconds, and a visit does not count when the anchor that it resembles drifts from its median meanwhile.
A visit is a loop of at least 20 ms in native code with weights that no cache holds. Finished visits go to a
file, so that a broken-off session is taken up again. Knows nothing of predictors.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.machine.gemm.blocking import DEFAULT, Blocking, Kernel
from trimtab.machine.gemm.shapes import Shape
from trimtab.machine.sampling import summary

Say = Callable[[str], None]

WEIGHT_BYTES = 384 * 2**20
"""Weights gone through in turn: a dozen times what the last cache holds."""
SCRATCH_BYTES = 144 * 2**20
LOOP_S = 0.02
VISITS, MOST_VISITS = 3, 7
"""Of every product, and of one whose visits disagree."""
DISAGREE = 0.08
STRETCH_S = 2.0
MOST_DRIFT = 0.15
NEAR = 4
"""Stretches before and after one that tell its anchors: a neighbour's second is noise, twenty are drift."""
ANCHORS = {
    "compute": ("int8", Shape(256, 1024, 1024)),
    "memory": ("bf16", Shape(1, 4096, 4096)),
}
KEPT_FOR_S = 3600.0
"""How old a broken-off session may be to be taken up again."""


class Task(NamedTuple):
    """One timing to be made."""

    format: str
    threads: int
    shape: Shape
    blocking: Blocking = DEFAULT


class Row(NamedTuple):
    """What became of a task: seconds of a product, the spread over `n` visits, the load average meanwhile."""

    format: str
    threads: int
    shape: Shape
    blocking: Blocking
    median_s: float
    iqr_s: float
    n: int
    load: float
    library: str = "trimtab"

    @property
    def task(self) -> Task:
        return Task(self.format, self.threads, self.shape, self.blocking)


@dataclass(slots=True)
class Stretch:
    """Visits between two looks at the anchors: (task, seconds of a product)."""

    before: dict[str, float]
    load: float
    after: dict[str, float] = field(default_factory=dict)
    visits: list[tuple[Task, float]] = field(default_factory=list)


class Timer:
    """Times products with this processor's kernels; holds the buffers and one pool a thread count."""

    def __init__(self, threads: Iterable[int], *, loop_s: float = LOOP_S) -> None:
        from trimtab import _native

        self._native = _native
        self.kernels = _native.choose_kernels("")
        self._timer = _native.MultiplyTimer(self.kernels, WEIGHT_BYTES, SCRATCH_BYTES)
        self._pools = {count: _native.Pool(count) for count in dict.fromkeys(threads)}
        self._forms: dict[str, str] = {}
        self._last: dict[Task, float] = {}
        self.loop_s = loop_s

    def seconds(self, task: Task, loops: int = 1) -> float:
        """Seconds of one product now: the median of loops that each last `loop_s`."""
        m, n, k, gated = task.shape
        form = self._forms.setdefault(task.format, self._native.format_form(task.format)[0])
        calls = int(self.loop_s / self._last[task]) + 1 if task in self._last else 0
        found = self._timer.time(
            self._pools[task.threads], task.format, form, m, n, k, gated,
            self._native.Blocking(*task.blocking), True, self.loop_s, loops, calls,
        )  # fmt: skip
        self._last[task] = median = float(statistics.median(found))
        return median

    def anchors(self) -> dict[str, float]:
        """Seconds of each anchor now, with the most threads."""
        most = max(self._pools)
        return {name: self.seconds(Task(format, most, shape), 3) for name, (format, shape) in ANCHORS.items()}


class Session:
    """A collection that can be broken off: stretches go to a file as they end."""

    def __init__(self, path: Path | None, header: dict[str, Any], most_drift: float = MOST_DRIFT) -> None:
        self.path, self.most_drift = path, most_drift
        self.stretches: list[Stretch] = []
        if path is not None and path.exists() and time.time() - path.stat().st_mtime < KEPT_FOR_S:
            self.stretches = _read(path, header)
        if path is not None and not self.stretches:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(header) + "\n", encoding="utf-8")

    def add(self, stretch: Stretch) -> None:
        self.stretches.append(stretch)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([stretch.before, stretch.load, stretch.after, stretch.visits]) + "\n")

    def usual(self, first: int = 0, last: int | None = None) -> dict[str, float]:
        """The median of each anchor over some stretches; nothing of none."""
        looks = [look for stretch in self.stretches[first:last] for look in (stretch.before, stretch.after)]
        return {name: statistics.median([look[name] for look in looks]) for name in ANCHORS} if looks else {}

    def visits(self) -> dict[Task, list[float]]:
        """Seconds that count, of every task that has any."""
        usual = self.usual()
        found: dict[Task, list[float]] = {}
        for number, stretch in enumerate(self.stretches):
            near = self.usual(max(0, number - NEAR), number + NEAR + 1)
            strayed = {name for name in usual if abs(near[name] / usual[name] - 1) > self.most_drift}
            for task, seconds in stretch.visits:
                if not strayed & resembles(task):
                    found.setdefault(task, []).append(seconds)
        return found

    def rows(self) -> list[Row]:
        """The medians, and the load while they were taken."""
        load = {task: stretch.load for stretch in self.stretches for task, _ in stretch.visits}
        rows = []
        for task, seconds in self.visits().items():
            told = summary(seconds)
            rows.append(Row(*task, float(told["median"]), float(told["iqr"]), len(seconds), load[task]))
        return rows

    def told(self) -> dict[str, Any]:
        """What a reader of the rows should know about how calm it was."""
        made = sum(len(stretch.visits) for stretch in self.stretches)
        kept = sum(map(len, self.visits().values()))
        looks = [look for stretch in self.stretches for look in (stretch.before, stretch.after)]
        spread = {name: summary([look[name] for look in looks]) for name in ANCHORS} if looks else {}
        return {"visits": made, "visits_kept": kept, "anchors_s": spread}

    def end(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def run(
    tasks: Sequence[Task], timer: Timer, session: Session, budget_s: float, say: Say, visits: int = VISITS
) -> None:
    """Visit all tasks until each has enough visits that count, or the budget is spent."""
    began = told = time.monotonic()
    order = random.Random(len(session.stretches))
    anchors = timer.anchors() if tasks else {}
    for number in itertools.count(1):
        left = _wanting(tasks, session.visits(), min(number, visits), visits)
        order.shuffle(left)
        if not left:
            if number > visits:
                return
            continue
        for start in range(0, len(left), 1000):
            part, at = left[start : start + 1000], 0
            while at < len(part):
                if time.monotonic() - began > budget_s or number > MOST_VISITS + VISITS:
                    return
                stretch, since = Stretch(anchors, os.getloadavg()[0]), time.monotonic()
                while at < len(part) and (not stretch.visits or time.monotonic() - since < STRETCH_S):
                    stretch.visits.append((part[at], timer.seconds(part[at])))
                    at += 1
                anchors = stretch.after = timer.anchors()
                session.add(stretch)
                if (now := time.monotonic()) - told > 10:
                    told = now
                    say(f"round {number}: {start + at} of {len(left)} products, {now - began:.0f} s "
                        f"of at most {budget_s:.0f} s")  # fmt: skip


def _wanting(
    tasks: Sequence[Task], visits: Mapping[Task, list[float]], enough: int, usual: int
) -> list[Task]:
    """Tasks with fewer visits than that, or, once all have enough, with visits that disagree."""
    few = [task for task in tasks if len(visits.get(task, ())) < enough]
    if few or enough < usual or usual < VISITS:
        return few
    return [
        task for task in tasks
        if len(seen := visits[task]) < MOST_VISITS
        and float(summary(seen)["iqr"]) > DISAGREE * statistics.median(seen)
    ]  # fmt: skip


def resembles(task: Task) -> set[str]:
    """The anchors that a task is like: bound by arithmetic, by memory, or near both."""
    wide = task.shape.n * (2 if task.shape.gated else 1)
    # As many operations take as long as a byte: 20 of integers, 5 of floats. Near that it is both.
    even = 5.0 if task.format == "bf16" else 20.0
    balance = task.shape.ops / (wide * task.shape.k * _BYTES.get(task.format[:2], 1.0)) / even
    return {name for name, like in (("compute", balance > 0.5), ("memory", balance < 2)) if like}


_BYTES = {"q4": 0.56, "q8": 1.06, "in": 1.0, "bf": 2.0}


def cost_s(task: Task, loop_s: float = LOOP_S, visits: int = VISITS) -> float:
    """About how long a task takes; enough to choose which ones a budget has room for."""
    rate = 1.5e11 * task.threads * (2 if task.format != "bf16" else 0.6)
    slow = 3.0 if task.blocking.rows == 1 else 1.0
    once = task.shape.ops / rate * slow + task.shape.n * task.shape.k / 2e10
    return visits * (once + max(1.1 * loop_s, once)) + once + loop_s / 4


def _read(path: Path, header: dict[str, Any]) -> list[Stretch]:
    """What an earlier session left; nothing where it was another machine's or is damaged."""
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        if json.loads(first) != header:
            return []
        return [
            Stretch(before, load, after, [(_task(*values), float(seconds)) for values, seconds in visits])
            for before, load, after, visits in map(json.loads, lines)
        ]
    except (OSError, ValueError, TypeError):
        return []


def _task(format: str, threads: int, shape: Sequence[Any], blocking: Sequence[int]) -> Task:
    return Task(format, threads, Shape(*shape), Blocking(*blocking))


def kernels_of(formats: Iterable[str], kernels: Any = None) -> dict[str, Kernel]:
    """What this processor's kernels, or the given ones, do with each format."""
    return {format: Kernel.of(format, kernels) for format in formats}
