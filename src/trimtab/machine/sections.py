"""The sections of the machine profile and who measures each: one table, and the run that goes through it.

A measurer is a plain function, `measure(quick=..., say=...) -> dict`, imported when it is its turn; one of
several sections returns a dict of them. Each section is written as soon as it is there, so a run that is
interrupted keeps what it has. What the sections hold is not known here.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError, UnknownName
from trimtab.machine import quiet
from trimtab.machine.profile import Section, update, watched


@dataclass(frozen=True, slots=True)
class Measurer:
    """Who measures one section or some.

    Parameters
    ----------
    function : "module:function"
    sections : what it yields
    what : one line for people
    seconds, quick_seconds : about what it takes
    timed : False for what is only read, which no noise can spoil
    """

    function: str
    sections: tuple[str, ...]
    what: str
    seconds: float
    quick_seconds: float
    timed: bool = True

    def load(self) -> Callable[..., Mapping[str, Any]]:
        module, _, name = self.function.partition(":")
        found: Callable[..., Mapping[str, Any]] = getattr(importlib.import_module(module), name)
        return found


MEASURERS = (
    Measurer(
        "trimtab.machine.measures.topology:measure", ("topology",),
        "processors, caches, memory nodes, pages", 0.1, 0.1, timed=False,
    ),
    Measurer(
        "trimtab.machine.measures.limits:measure", ("limits",),
        "memory, processor and process limits in force", 0.1, 0.1, timed=False,
    ),
    Measurer(
        "trimtab.machine.measures.stream:measure", ("bandwidth",),
        "memory bandwidth, cost of a parallel region", 25, 3,
    ),
    Measurer("trimtab.machine.measures.peak:measure", ("peak",), "arithmetic peaks by type and shape", 13, 1),
    Measurer(
        "trimtab.machine.micro:measure", ("latency", "peak_units", "sync"),
        "latency of memory, instructions and the system", 21, 3,
    ),
    Measurer("trimtab.machine.measures.disk:measure", ("disk",), "the disk, by size and queue depth", 15, 2),
    Measurer(
        "trimtab.machine.measures.process:measure", ("process",),
        "starting processes, importing, touching memory", 13, 1,
    ),
    Measurer("trimtab.machine.measures.gpu:measure", ("gpu",), "a GPU's ceilings, where there is one", 10, 3),
    Measurer(
        "trimtab.evaluate.operators:measure", ("operators",),
        "what each kind of a model's operations takes", 15, 5,
    ),
)  # fmt: skip

SECTIONS = {name: measurer for measurer in MEASURERS for name in measurer.sections}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one measurer in a run: its sections, or why there are none."""

    names: tuple[str, ...]
    sections: Mapping[str, Section]
    missing: str = ""


def chosen(only: Iterable[str] | None) -> list[Measurer]:
    """The measurers that yield the named sections, in the table's order; all without names.

    Raises
    ------
    UnknownName : no such section
    """
    if only is None:
        return list(MEASURERS)
    wanted = list(only)
    for name in wanted:
        if name not in SECTIONS:
            raise UnknownName(f"no section `{name}` that can be measured", f"there is {', '.join(SECTIONS)}")
    return [one for one in MEASURERS if set(one.sections) & set(wanted)]


def measure(
    *, quick: bool = False, only: Iterable[str] | None = None, path: Path | None = None, force: bool = False,
    patience_s: float = 120.0, say: Callable[[str], None] = lambda _: None,
    step: Callable[[int, int, Measurer], None] = lambda *_: None,
) -> list[Outcome]:  # fmt: skip
    """Measure this machine and write its profile, section by section.

    Parameters
    ----------
    only : names of sections; default all
    path : the profile's file; default the user's
    force : measure on a busy machine too; what it disturbed is stamped as noisy
    patience_s : how long to wait for a quiet machine before refusing
    step : told when a measurer begins: its number from 1, how many there are, which

    Raises
    ------
    Busy : the machine did not become quiet
    UnknownName : no such section
    """
    todo, outcomes = chosen(only), []
    if not force and any(one.timed for one in todo):
        quiet.insist(patience_s, say)
    # From here on the load average is our own doing, so between sections only the moment counts.
    deadline = time.monotonic() + patience_s
    for number, one in enumerate(todo, 1):
        step(number, len(todo), one)
        outcome = _one(one, quick, say)
        if not force and any(section.noisy for section in outcome.sections.values()):
            left = deadline - time.monotonic()
            if left > 0:
                say("it was disturbed; once more on a quiet machine")
                quiet.wait(left)
                outcome = _calmer(outcome, _one(one, quick, say))
        for name, section in outcome.sections.items():
            update(name, section, path)
        outcomes.append(outcome)
    return outcomes


def _one(one: Measurer, quick: bool, say: Callable[[str], None]) -> Outcome:
    """Run a measurer; what it cannot do on this machine is its outcome, not the end of the run."""
    try:
        run = one.load()
    except (ImportError, AttributeError) as error:
        return Outcome(one.sections, {}, f"not part of this build ({error})")
    try:
        with watched() as watch:
            data = run(quick=quick, say=say)
    except TrimtabError as error:
        return Outcome(one.sections, {}, error.message)
    parts = data if len(one.sections) > 1 else {one.sections[0]: data}
    found = {name: watch.section({**parts[name], "quick": quick}) for name in parts}
    if not one.timed:  # nothing that runs beside can spoil what is only read
        found = {name: replace(section, steal=0.0, others=0.0) for name, section in found.items()}
    return Outcome(one.sections, found)


def _calmer(first: Outcome, second: Outcome) -> Outcome:
    """The less disturbed of two runs."""

    def noise(outcome: Outcome) -> float:
        return max((each.others + each.steal for each in outcome.sections.values()), default=float("inf"))

    return second if noise(second) <= noise(first) else first


def kernel_choice() -> list[dict[str, Any]]:
    """Every kernel set that was built, best first: whether it runs here, was chosen, and why not.

    Returns
    -------
    rows of `name`, `state` (`chosen`, `runs` or `lacks`), `needs`, `missing`, `why`
    """
    from trimtab import _native

    best = _native.choose_kernels().name
    rows = []
    for name, needs, missing in _native.kernel_needs():
        state = "chosen" if name == best else "lacks" if missing else "runs"
        why = {
            "chosen": "the first in the order of preference that this processor can run",
            "runs": f"it runs here too, but `{best}` comes first",
            "lacks": f"this processor has no {', '.join(missing)}",
        }[state]
        rows.append({"name": name, "state": state, "needs": needs, "missing": missing, "why": why})
    return rows
