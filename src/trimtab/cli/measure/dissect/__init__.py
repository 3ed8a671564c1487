"""`trimtab measure dissect`: where the time and the memory of a run went, part by part."""

from __future__ import annotations

import typer

from trimtab.cli.lazy import LazyGroup

COMMANDS: dict[str, str] = {
    "serve": "Requests of a server, from the client to the operator",
    "finetune": "Steps that train a model's weights, or a low-rank update of them",
    "train": "Steps that train a small model from nothing",
}

EXAMPLES = """\
trimtab measure dissect serve                         smollm2, one request at a time
trimtab measure dissect serve --batch 8 --trace t.json   eight together, and a trace for Perfetto
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
