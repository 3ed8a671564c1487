"""`trimtab measure dissect`: where the time and the memory of a run went."""

from __future__ import annotations

import typer

from trimtab.cli.lazy import LazyGroup

COMMANDS: dict[str, str] = {
    "finetune": "Steps that train a model's weights, or a low-rank update of them",
    "train": "Steps that train a small model from nothing",
}

EXAMPLES = """\
trimtab measure dissect finetune --techniques F,L     one set of techniques
trimtab measure dissect finetune --grid               the usual sets, one after the other
trimtab measure dissect train --layers 6 --hidden 256
"""


class Commands(LazyGroup):
    table, package = COMMANDS, __name__


app = typer.Typer(
    cls=Commands, add_completion=False, rich_markup_mode=None, no_args_is_help=True, epilog=EXAMPLES
)


@app.callback()
def dissect() -> None:
    """Close the budget of a run: time by stage, module and operator, memory by category."""
