"""`trimtab measure`: what this machine can do, how long work will take, and where the time went."""

from __future__ import annotations

import typer

from trimtab.cli.lazy import LazyGroup

COMMANDS: dict[str, str] = {}


class Commands(LazyGroup):
    table, package = COMMANDS, __name__


EXAMPLES = """\
trimtab measure                     everything about this machine, about two minutes
trimtab measure --quick             the same in 15 seconds, coarser
trimtab measure show                what is known, in the terminal
"""

app = typer.Typer(cls=Commands, add_completion=False, rich_markup_mode=None, epilog=EXAMPLES)


@app.callback(invoke_without_command=True)
def measure(context: typer.Context) -> None:
    """Measure what this machine can do, how long work takes on it, and where the time of a run goes."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)
