"""`trimtab fit`: what a model or a workload would take on this machine, and what to choose."""

from __future__ import annotations

import typer

from trimtab.cli.lazy import LazyGroup

COMMANDS: dict[str, str] = {}

EXAMPLES = """\
trimtab fit predict requests --workload trace.jsonl   time and cost of each request
"""


class Commands(LazyGroup):
    table, package = COMMANDS, __name__


app = typer.Typer(
    cls=Commands, add_completion=False, rich_markup_mode=None, no_args_is_help=True, epilog=EXAMPLES
)


@app.callback()
def fit() -> None:
    """Predict and plan: what a model or a workload would take on this machine."""
