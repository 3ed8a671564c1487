"""`trimtab measure dissect finetune`: one training step of a model, taken apart."""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab.cli.measure.dissect import steps
from trimtab.cli.text import Verb

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure dissect finetune                      every weight, the naive step
trimtab measure dissect finetune --techniques F,R     fused attention, recomputation
trimtab measure dissect finetune --techniques QL,F    a low-rank update over a four-bit base
trimtab measure dissect finetune --grid               the usual sets, each in a process of its own
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def finetune(
    model: Annotated[str, typer.Argument(help="file, folder, pulled name or hub id")] = "smollm2",
    techniques: steps.Techniques = "",
    batch: steps.Batch = 1,
    length: steps.Length = 128,
    count: steps.Steps = 5,
    threads: steps.Threads = None,
    grid: Annotated[bool, typer.Option("--grid", help="the usual sets instead of one")] = False,
    out: steps.Out = None,
    as_json: steps.Json = False,
) -> None:
    """Take training steps of a model and say where their time and memory went, and what they should take.

    Needs torch: `pip install "trimtab[torch]"`.
    """
    from trimtab.formats import cache
    from trimtab.formats.source import open_source
    from trimtab.models.config import config_from

    if grid:
        options = ["--batch", str(batch), "--length", str(length), "--steps", str(count)]
        options += [] if threads is None else ["--threads", str(threads)]
        steps.grid(["finetune", model, *options], out, as_json)
        return
    source = open_source(cache.resolve(model))
    steps.one(
        config_from(source), source, techniques, batch, length, count, threads,
        out=out, as_json=as_json, stage="finetune",
    )  # fmt: skip
