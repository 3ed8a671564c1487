"""`trimtab fit`: what a model or a workload would take on this machine, and what to choose."""

from __future__ import annotations

import typer

from trimtab.cli.lazy import LazyGroup

COMMANDS: dict[str, str] = {
    "pipeline": "settings of a vision pipeline for a latency objective, from what was measured",
    "predict": "how long work will take here, without running it",
}

EXAMPLES = """\
trimtab fit predict gemm 512 4096 4096 --format q4    time of a matrix product, with error bars
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
