"""`trimtab measure`: what this machine can do, how long work will take, and where the time went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.lazy import LazyGroup

COMMANDS: dict[str, str] = {
    "dissect": "where the time and the memory of a run went",
    "show": "what is known of this machine: in the terminal, as a page, as JSON",
    "stream": "memory bandwidth by working set, and what a parallel region costs",
    "doctor": "the three worst bottlenecks of a dissected run, and what to change",
    "gemm": "how long matrix products take, and a predictor of those never run",
    "llm": "how long requests take with a model on an engine",
    "device": "conversations on a device or under its limits: run, report, fit",
    "micro": "what instructions, memory levels, cores and system calls cost",
    "pipeline": "what each stage of a vision pipeline demands, and how much it can take",
    "verify": "ten anchors again: is this still the machine of the profile?",
}


class Commands(LazyGroup):
    table, package = COMMANDS, __name__


EXAMPLES = """\
trimtab measure                     everything about this machine, about two minutes
trimtab measure --quick             the same in 15 seconds, coarser
trimtab measure --only disk,peak    some sections; the others stay as they are
trimtab measure show                what is known, in the terminal
trimtab measure --kernels           which kernels were chosen, and why
"""

app = typer.Typer(cls=Commands, add_completion=False, rich_markup_mode=None, epilog=EXAMPLES)


@app.callback(invoke_without_command=True)
def measure(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="coarser, in about 15 seconds")] = False,
    only: Annotated[
        str | None, typer.Option(metavar="A,B", help="only these sections; the others stay as they are")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the profile's file; default: trimtab's cache")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="on a busy machine too; what was disturbed is stamped as noisy")
    ] = False,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="longest wait for a quiet machine")
    ] = 120,
    kernels: Annotated[
        bool,
        typer.Option("--kernels", help="measure nothing: which kernels were chosen, and why others lost"),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="what was measured, as one JSON value")] = False,
) -> None:
    """Measure what this machine can do, how long work takes on it, and where the time of a run goes.

    Without a command: everything about the machine, kept in a profile that the other commands, the planner
    and the benchmarks read. It waits for a quiet machine, and refuses a busy one.
    """
    if context.invoked_subcommand is not None:
        return
    from trimtab.cli.measure import everything

    if kernels:
        everything.show_kernels(as_json)
    else:
        raise typer.Exit(
            everything.measure(
                quick=quick, only=only, as_json=as_json, out=out, force=force, patience_s=patience
            )
        )
