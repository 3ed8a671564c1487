"""`trimtab fit predict`: how long a piece of work will take here, without running it."""

from __future__ import annotations

import typer

from trimtab.cli.lazy import LazyGroup

COMMANDS: dict[str, str] = {
    "requests": "time and cost of a workload of requests",
    "gemm": "a matrix product, with error bars",
    "prefill": "how long a model takes to read a prompt, run or never run",
}

EXAMPLES = """\
trimtab fit predict gemm 512 4096 4096 --format q4    a matrix product, with error bars
trimtab fit predict prefill smollm2 --tokens 128,512  time to read a prompt
trimtab fit predict requests --workload trace.jsonl   time and cost of each request
"""


class Commands(LazyGroup):
    table, package = COMMANDS, __name__


app = typer.Typer(
    cls=Commands, add_completion=False, rich_markup_mode=None, no_args_is_help=True, epilog=EXAMPLES
)


@app.callback()
def predict() -> None:
    """Predict how long work will take on this machine, from what was measured of it."""
