"""`trimtab measure micro`: what single instructions, memory levels, cores and system calls cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.text import Verb, note, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure micro                       everything about the processor, about half a minute
trimtab measure micro --quick               the same in three seconds, coarser
trimtab measure micro --suite throughput    how many of each instruction a core starts in a cycle
trimtab measure micro --suite memory        what a load costs by footprint, and where the caches end
trimtab measure micro --json | jq '.peak_units.peaks'
trimtab measure micro --gpu                 a GPU of compute capability 9.0, with a program built by nvcc
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def micro(
    suite: Annotated[
        str, typer.Option(metavar="NAME", help="all, latency, throughput, memory, sync or os")
    ] = "all",
    quick: Annotated[bool, typer.Option("--quick", help="coarser, in about three seconds")] = False,
    gpu: Annotated[bool, typer.Option("--gpu/--cpu", help="the first GPU, or the processor")] = False,
    program: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="with --gpu: what to run; default: trimtab-gpu-micro on the path"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the profile's file; default: trimtab's cache")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="on a busy machine too; what was disturbed is stamped as noisy")
    ] = False,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="longest wait for a quiet machine")
    ] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="what was measured, as one JSON value")] = False,
) -> None:
    """Measure what single instructions, memory levels, cores and system calls cost, in cycles and time.

    Every instruction as a chain (latency) and side by side (throughput), on one core and on all; loads by
    footprint; what cores and the system cost each other. Kept in the profile when it is the whole of a
    section.
    """
    from trimtab.errors import UsageError
    from trimtab.machine import quiet
    from trimtab.machine.micro import measure, sections_of
    from trimtab.machine.profile import update, watched

    if program is not None and not gpu:
        raise UsageError(f"--program {program}: only with --gpu", "a processor needs no program", "program")
    names = sections_of(suite, gpu=gpu)
    if not force:
        quiet.insist(patience, note)
    with watched() as watch:
        if gpu:
            from trimtab.machine.micro import gpu as device

            found = {"gpu_units": device.measure(program, quick=quick, say=note)}
        else:
            found = measure(suite, quick=quick, say=note)
        sections = {name: watch.section({**data, "quick": quick}) for name, data in found.items()}
    # Half a section would take the place of a whole one.
    for name in names:
        place = update(name, sections[name], out)
        note(f"{name}: written to {place}")
    if as_json:
        print_json(found)
        return
    for name, data in found.items():
        print_section(name, data)


def print_section(name: str, data: Mapping[str, Any]) -> None:
    """A section as tables for people."""
    if name == "latency":
        _ladder(data)
        return
    rows = [
        [
            row["suite"],
            f"{row['name']} {row['width_bits'] or ''}".strip(),
            str(row["cores"]),
            "" if row["cycles"] is None else f"{row['cycles']:.2f}",
            time_text(row["ns"]),
            f"{row['rate'] / 1e9:.4g} G{row['unit']}" if row["rate"] else "",
            f"{row['iqr_ns'] / max(row['median_ns'], 1e-9):.1%}",
            " ".join(f"{key}={value}" for key, value in row["detail"].items() if key in ("chains", "data")),
        ]
        for row in data["rows"]
    ]
    print_table(["SUITE", "WHAT", "CORES", "CYCLES", "TIME", "RATE", "SPREAD", "HOW"], rows)
    for row in data.get("refused", ()):
        note(f"refused: {row['name']} {row['width_bits']}: {row['cycles']} cycles cannot be true")


def _ladder(data: Mapping[str, Any]) -> None:
    curves = data["curves"]
    names = list(curves)
    sizes = sorted({point["bytes"] for name in names for point in curves[name]})
    costs = {name: {point["bytes"]: point["ns"] for point in curves[name]} for name in names}
    table = [
        [size_text(size), *(time_text(costs[name][size]) if size in costs[name] else "" for name in names)]
        for size in sizes
    ]
    print_table(["BYTES", *(name.replace("_", " ") for name in names)], table)
    print_table(
        ["LEVEL", "FROM", "TO", "CYCLES", "TIME"],
        [
            [
                str(number),
                size_text(level["first_bytes"]),
                size_text(level["last_bytes"]),
                f"{level['cycles']:.1f}",
                time_text(level["ns"]),
            ]
            for number, level in enumerate(data["levels"], 1)
        ],
    )
    note(
        f"levels end at {_listed(data['knees_bytes'])}; the system says {_listed(data['reported'].values())}"
    )


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(size_text(size) for size in sizes) or "nothing"


def size_text(size: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.4g} {unit}"
    return f"{size} B"


def time_text(ns: float) -> str:
    for unit, scale in (("ms", 1e6), ("µs", 1e3)):
        if ns >= scale:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns:.3g} ns"
