"""`trimtab evaluate compare`: models and engines side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.cli.text import Verb, note, print_json, print_table, size

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab evaluate compare smollm2 smollm2@q8 smollm2@bf16      three forms of one model
trimtab evaluate compare smollm2@bf16 other.gguf --svg p.svg  quality against time as a picture
trimtab evaluate compare m.gguf llamacpp:m.gguf               one model, two engines
trimtab evaluate compare m.gguf http://127.0.0.1:8000         a server beside it
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def compare(
    candidates: Annotated[
        list[str], typer.Argument(metavar="A B ...", help="model, model@format, engine:model or address")
    ],
    workload: Annotated[
        Path | None, typer.Option(metavar="PATH", help="JSON lines of prompt_tokens and output_tokens")
    ] = None,
    mix: Annotated[
        str, typer.Option(metavar="MIX", help="without a workload: chat, summary, extract or mixed")
    ] = "mixed",
    count: Annotated[int, typer.Option(metavar="N", help="requests of the mix", min=1)] = 6,
    trials: Annotated[int, typer.Option(metavar="N", help="times each runs the workload", min=1)] = 3,
    price: Annotated[
        float | None, typer.Option("--price-per-hour", metavar="X", help="of the machine, for a cost", min=0)
    ] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="of every engine; default: all")] = None,
    budget: Annotated[
        float, typer.Option("--budget-seconds", metavar="X", help="calibration of each", min=1)
    ] = 20.0,
    no_quality: Annotated[bool, typer.Option("--no-quality", help="leave perplexity and KL out")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="one trial of three requests, 4 s each")] = False,
    svg: Annotated[
        Path | None, typer.Option(metavar="PATH", help="write perplexity against idealized time there")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="everything as one JSON array")] = False,
) -> None:
    """Compare candidates on one workload: raw, denoised and idealized time, cost, memory, quality.

    Raw is the workload as it ran; denoised takes contention off; idealized is the same model on one uniform
    stack, trimtab on this machine. The first candidate is the reference of the KL divergence.
    """
    from trimtab.evaluate import compare as comparing
    from trimtab.evaluate import workload as workloads

    asked = workloads.read_trace(workload) if workload else workloads.mix(mix, 3 if quick else count, seed=0)
    rows = comparing.compare(
        [comparing.Candidate.parse(text) for text in candidates], asked,
        trials=1 if quick else trials, budget_s=4.0 if quick else budget, price_per_hour=price,
        threads=threads, text="" if no_quality else None, windows=1 if quick else 2, say=note,
    )  # fmt: skip
    if svg is not None:
        _draw(svg, rows)
    if as_json:
        print_json([row.to_json() for row in rows])
        return
    head = ["CANDIDATE", "RAW s", "DENOISED s", "IDEALIZED s", "COST", "MEMORY", "PERPLEXITY", "KL"]
    print_table(head, [
        [
            row.name,
            *map(_figure, (row.raw_s, row.denoised_s, row.idealized_s, row.cost)),
            "–" if row.memory_bytes is None else size(row.memory_bytes),
            *map(_figure, (row.perplexity, row.kl)),
        ] for row in rows
    ])  # fmt: skip
    for row in rows:
        for what, reason in row.why.items():
            note(f"{row.name}: no {what}: {reason}")
    bases = dict.fromkeys(f"{row.engine}: {row.memory_basis}" for row in rows if row.memory_basis)
    note(f"{len(asked)} requests, {rows[0].trials} trials; memory of {'; '.join(bases) or 'nobody'}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _draw(path: Path, rows: list[Any]) -> None:
    """The picture of those that have both figures, written in one piece."""
    import os
    import tempfile

    from trimtab.evaluate.picture import Disc, scatter

    discs = [
        Disc(row.name, row.idealized_s or row.denoised_s, row.perplexity, row.memory_bytes or 0)
        for row in rows
        if (row.idealized_s or row.denoised_s) and row.perplexity is not None
    ]
    if not discs:
        note("no picture: nobody has both a time and a perplexity")
        return
    text = scatter(discs, across="idealized time of the workload, s", upwards="perplexity, lower is better")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".picture.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
    note(f"picture in {path}")
