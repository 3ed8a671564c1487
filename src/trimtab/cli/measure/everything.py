"""`trimtab measure` itself: everything about this machine, section by section, with progress on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.text import decorated, note, print_json, print_table

if TYPE_CHECKING:
    from trimtab.machine.sections import Measurer, Outcome


def measure(
    *, quick: bool, only: str | None, as_json: bool, out: Path | None, force: bool, patience_s: float
) -> int:
    """Measure, write the profile, and print a line for each section; the exit code."""
    from trimtab.machine import sections

    names = None if only is None else [name.strip() for name in only.split(",") if name.strip()]
    todo = sections.chosen(names)
    expected = sum(one.quick_seconds if quick else one.seconds for one in todo)
    steps = Steps(expected, [one.quick_seconds if quick else one.seconds for one in todo])
    began = time.monotonic()
    try:
        outcomes = sections.measure(
            quick=quick,
            only=names,
            path=out,
            force=force,
            patience_s=patience_s,
            say=steps.say,
            step=steps.step,
        )
    finally:
        steps.close()
    place = _where(out)
    note(f"{time.monotonic() - began:.1f} s; written to {place}")
    if as_json:
        print_json(
            {
                "profile": str(place),
                "sections": {
                    name: _told(section) for each in outcomes for name, section in each.sections.items()
                },
                "missing": {name: each.missing for each in outcomes if each.missing for name in each.names},
            }
        )
    else:
        print_table(["SECTION", "STATE", "SECONDS"], rows(outcomes))
        if any(each.sections for each in outcomes):
            note("`trimtab measure show` draws it")
    return 0 if any(each.sections for each in outcomes) else 1


def rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    found = []
    for each in outcomes:
        for name in each.names:
            section = each.sections.get(name)
            if section is None:
                found.append([name, f"missing: {each.missing or 'its measurer left it out'}", ""])
                continue
            state = "measured"
            if section.noisy:
                state = f"noisy: {section.others:.0%} other work, {section.steal:.0%} stolen"
            found.append([name, state, f"{section.seconds:.1f}"])
    return found


class Steps:
    """Progress on stderr: a bar over all sections in a terminal, a line a section elsewhere."""

    def __init__(self, expected_s: float, parts_s: Sequence[float]) -> None:
        self._parts, self._expected = parts_s, expected_s
        self._bar: Any = None
        self._task: Any = None
        self._title = ""
        if decorated(sys.stderr):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("looking whether the machine is quiet", total=expected_s)

    def step(self, number: int, whole: int, one: Measurer) -> None:
        self._title = f"{number}/{whole} {', '.join(one.sections)}"
        if self._bar is None:
            note(f"[{self._title}] {one.what}")
        else:
            done = sum(self._parts[: number - 1])
            self._bar.update(self._task, completed=done, description=f"{self._title}: {one.what}")

    def say(self, text: str) -> None:
        if self._bar is None:
            note(f"  {text}")
        else:
            self._bar.update(self._task, description=f"{self._title}: {text}" if self._title else text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def show_kernels(as_json: bool) -> None:
    """Which kernel set was chosen by CPUID, which lost, and why."""
    from trimtab.machine.sections import kernel_choice

    found = kernel_choice()
    if as_json:
        print_json(found)
        return
    table = [[row["name"], row["state"], row["why"], " ".join(row["needs"]) or "nothing"] for row in found]
    print_table(["KERNELS", "STATE", "WHY", "NEEDS"], table)


def _told(section: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(section) | {"noisy": section.noisy}


def _where(out: Path | None) -> Path:
    from trimtab.machine.profile import default_path

    return out or default_path()
