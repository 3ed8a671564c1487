"""The machine's profile in the terminal: facts, and charts drawn with characters."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trimtab.cli.measure import characters
from trimtab.machine import figures
from trimtab.machine.figures import Curve, si, size
from trimtab.machine.profile import Profile

WIDEST = 100


def draw(profile: Profile) -> None:
    """Print everything the profile knows to stdout."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    width = min(WIDEST, console.width)
    plain = not _speaks_unicode()
    for title, lines in parts(profile, width, plain):
        console.print(Text(title, style="bold"))
        for line in lines:
            style = "yellow" if line.startswith("! ") else ""
            console.print(Text(line, style=style))
        console.print()


def parts(profile: Profile, width: int, plain: bool) -> list[tuple[str, list[str]]]:
    """Titles with their lines of text."""
    found = [(title, _pairs(lines)) for title, lines in figures.facts(profile)]
    roof = figures.roofline(profile)
    if roof is not None:
        found.append((f"Roofline, {roof.threads} threads", roofline(roof, width, plain)))
    curves = figures.bandwidth(profile)
    found.append(
        ("Reading, over the working set", characters.chart(curves, size, _rate, width=width, plain=plain))
    )
    found.append(
        (
            "A dependent load, over the working set",
            characters.chart(figures.loads(profile), size, _time, width=width, height=10, plain=plain),
        )
    )
    ladder = [(cost.name, cost.seconds) for cost in figures.costs(profile)]
    found.append(("Latency ladder", characters.bars(ladder, _time, width=width, plain=plain)))
    for op in ("read", "write"):
        curves = figures.disk(profile, op)
        title = f"Disk, random direct {op}s, by size" + _cached(profile)
        found.append((title, characters.chart(curves, size, _rate, width=width, height=9, plain=plain)))
    found.append(("Sections", _sections(profile)))
    return [(title, lines) for title, lines in found if lines]


def roofline(roof: figures.Roofline, width: int, plain: bool) -> list[str]:
    """The roof of the fastest unit over memory and over the second cache, and where products are."""
    if not roof.rates or not roof.peaks:
        return []
    top, (_, memory) = roof.peaks[0][1], roof.rates[-1]
    ridge = top / memory
    xs = [2.0**power for power in range(-2, 14) if 2.0**power <= max(ridge * 8, 64)]
    curves = [
        Curve(f"{roof.peaks[0][0]} from {level}", [(x, min(top, rate * x)) for x in xs])
        for level, rate in reversed(roof.rates)
        if level in ("memory", "L2")
    ]
    lines = characters.chart(
        curves, lambda x: f"{x:.3g} op/B", lambda y: si(y, "op/s"), width=width, plain=plain
    )
    lines.append("")
    pairs = [(f"peak of {unit}", si(value, "op/s")) for unit, value in roof.peaks]
    pairs += [(f"read from {level}", si(rate, "B/s")) for level, rate in roof.rates]
    pairs += [(f"product in {mark.name}", si(mark.ops_per_s, "op/s")) for mark in roof.marks]
    lines += _pairs(pairs)
    lines.append(
        f"Below {ridge:.3g} operations a byte from memory its rate sets the pace, above it the peak."
    )
    return lines


def _sections(profile: Profile) -> list[str]:
    lines = []
    for state in figures.states(profile):
        lines.append(f"{state.name:<12} {figures.when(state.date)}  {state.seconds:6.1f} s")
        if state.problem:
            lines.append(f"! {state.name} {state.problem}")
    return lines


def _cached(profile: Profile) -> str:
    section = profile.sections.get("disk")
    return "" if section is None or section.data.get("direct") else " (through the page cache: not direct)"


def _pairs(pairs: Sequence[tuple[str, str]]) -> list[str]:
    wide = max((len(name) for name, _ in pairs), default=0)
    return [f"{name:<{wide}}  {value}" for name, value in pairs]


def _rate(value: float) -> str:
    return si(value, "B/s")


def _time(value: float) -> str:
    return si(value, "s")


def _speaks_unicode() -> bool:
    try:
        "●━│└·µ".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
