"""`trimtab measure dissect train`: one step of a small model from nothing, taken apart."""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab.cli.measure.dissect import steps
from trimtab.cli.text import Verb

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure dissect train                                 six layers of 256
trimtab measure dissect train --layers 8 --hidden 384 --batch 4
trimtab measure dissect train --techniques F,bf16
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def train(
    layers: Annotated[int, typer.Option(metavar="N", min=1, max=256, help="decoder layers")] = 6,
    hidden: Annotated[int, typer.Option(metavar="N", min=64, max=8192, help="a multiple of 64")] = 256,
    vocab: Annotated[int, typer.Option(metavar="N", min=2, max=1_000_000, help="tokens known")] = 8192,
    techniques: steps.Techniques = "",
    batch: steps.Batch = 4,
    length: steps.Length = 256,
    count: steps.Steps = 5,
    threads: steps.Threads = None,
    out: steps.Out = None,
    as_json: steps.Json = False,
) -> None:
    """Take pre-training steps of a llama of random weights and say where their time and memory went.

    Needs torch: `pip install "trimtab[torch]"`.
    """
    from trimtab.errors import UsageError
    from trimtab.train.shapes import llama_shape

    if hidden % 64:
        raise UsageError(f"--hidden {hidden}: heads are 64 wide", "give a multiple of 64", "hidden")
    steps.one(
        llama_shape(layers, hidden, vocab), None, techniques, batch, length, count, threads,
        out=out, as_json=as_json, stage="train",
    )  # fmt: skip
