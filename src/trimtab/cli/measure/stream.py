"""`trimtab measure stream`: memory bandwidth by working set, and what a parallel region costs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trimtab.cli.text import Verb, note, print_json, print_table, size

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure stream                              16 KiB to 1 GiB, about half a minute
trimtab measure stream --ws 8M..256M --threads 2    where this machine's last cache ends
trimtab measure stream --executor all --dtype f64   what executors and first touch make of it
trimtab measure stream --quick --json               the section `bandwidth`, as JSON
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def stream(
    executor: Annotated[
        str, typer.Option(metavar="A,B", help="serial, parallel, fork-join, block, or all of them")
    ] = "fork-join",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="number types; default: f64,f32,bf16, or f64 with --quick"),
    ] = None,
    ws: Annotated[
        str | None, typer.Option(metavar="SIZES", help="working sets, such as 16K..1G or 32K,8M")
    ] = None,
    threads: Annotated[
        str | None, typer.Option(metavar="N,M", help="numbers of threads; default: 1 and all processors")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="fewer passes over four sizes, in 3 seconds")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="write it into the machine profile")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="everything, as one JSON value")] = False,
) -> None:
    """Measure bandwidth with STREAM on the executors and allocators that the engine's kernels run on.

    Every result is checked. Rates are shown as STREAM counts bytes and, behind a slash where it differs, with
    the lines that a plain store makes the processor read first.
    """
    from trimtab.machine import profile
    from trimtab.machine.measures import stream

    # Fork-join comes first: it is what the engine runs on, so its rates are the profile's.
    executors = stream.EXECUTORS if executor == "all" else tuple(_names(executor))
    executors = tuple(sorted(executors, key=lambda name: name != "fork-join"))
    with profile.watched() as watch:
        data = stream.measure(
            executors=executors,
            dtypes=_dtypes(dtype, quick),
            sizes=None if ws is None else stream.parse_sizes(ws),
            threads=None if threads is None else _counts(threads),
            quick=quick,
            say=note,
        )
    section = watch.section({**data, "quick": quick})
    place = profile.update("bandwidth", section) if keep else None
    if as_json:
        print_json(section.data)
    else:
        _show(section.data)
    if section.noisy:
        note(f"noisy: {section.others:.0%} other work, {section.steal:.0%} stolen; measure it again")
    if place is not None:
        note(f"written to {place}")


def _dtypes(given: str | None, quick: bool) -> tuple[str, ...] | None:
    """All of them unless some are asked for, or the measurement is a quick one."""
    from trimtab.machine.measures.stream import DTYPES

    if given is not None:
        return tuple(_names(given))
    return None if quick else tuple(DTYPES)


def _show(data: Any) -> None:
    """A table for each executor, thread count and type: a line a working set, a column a pattern."""
    from trimtab.machine.measures.stream import PATTERNS

    rows = [*data["rows"], *data["other_rows"]]
    print("GB/s as the program counts its bytes / with the reads that plain stores cause")
    for executor, threads, dtype in dict.fromkeys((r["executor"], r["threads"], r["dtype"]) for r in rows):
        mine = [r for r in rows if (r["executor"], r["threads"], r["dtype"]) == (executor, threads, dtype)]
        print(f"\n{executor}, {threads} thread{'s' * (threads > 1)}, {dtype}")
        lines = []
        for working_set in sorted({row["working_set_bytes"] for row in mine}):
            here = [row for row in mine if row["working_set_bytes"] == working_set]
            # A second line shows the plain stores where streaming ones are what the size asks for.
            for stores in dict.fromkeys(row["store"] for row in here if row["store"]):
                cells = {row["pattern"]: row for row in here if row["store"] in (stores, "")}
                knee = "a cache ends" if working_set in data["knees_bytes"] else ""
                rates = [_rate(cells.get(name)) for name in PATTERNS]
                lines.append([size(working_set), *rates, stores, knee])
        print_table(["WORKING SET", *PATTERNS, "STORE", ""], lines)
    costs = [
        [executor, threads, f"{seconds * 1e9:.0f}"]
        for executor, by_threads in data["region_s"].items()
        for threads, seconds in by_threads.items()
    ]
    print()
    print_table(["EXECUTOR", "THREADS", "EMPTY REGION, ns"], costs)
    if not data["pinned"]:
        note("the threads could not be tied to processors, so two of them may have shared one")


def _rate(row: Any) -> str:
    if row is None:
        return ""
    counted, traffic = row["bytes_per_s"] / 1e9, row["traffic_bytes_per_s"] / 1e9
    return f"{counted:.1f}" if counted == traffic else f"{counted:.1f}/{traffic:.1f}"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _counts(text: str) -> list[int]:
    from trimtab.errors import UsageError

    names = _names(text)
    if not names or not all(name.isdecimal() and len(name) < 6 for name in names):
        raise UsageError(f"--threads {text}: no numbers of threads", "write it like 1,2", "threads")
    return [int(name) for name in names]
