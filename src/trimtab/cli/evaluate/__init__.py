"""`trimtab evaluate`: models and engines side by side, quality beside time, cost and memory."""

from __future__ import annotations

import typer

from trimtab.cli.lazy import LazyGroup

COMMANDS: dict[str, str] = {
    "compare": "models and engines side by side: time, cost, memory, quality",
}

EXAMPLES = """\
trimtab evaluate compare smollm2 other.gguf   raw, denoised and idealized time, memory, quality
"""


class Commands(LazyGroup):
    table, package = COMMANDS, __name__


app = typer.Typer(
    cls=Commands, add_completion=False, rich_markup_mode=None, no_args_is_help=True, epilog=EXAMPLES
)


@app.callback()
def evaluate() -> None:
    """Compare models and engines: time, cost, memory and quality side by side."""
