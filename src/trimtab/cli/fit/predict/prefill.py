"""`trimtab fit predict prefill`: how long a model takes to read prompts here, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.text import Verb, note, print_json, print_table

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab fit predict prefill smollm2 --tokens 128,512,2048
trimtab fit predict prefill llama-8b/config.json --format q4     from its config.json alone
trimtab fit predict prefill model.gguf --tokens 512 --threads 1 --json
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def prefill(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="file, folder or pulled name; or a config.json alone")
    ],
    tokens: Annotated[str, typer.Option(metavar="N,N", help="prompt lengths")] = "128,512,2048",
    format: Annotated[str, typer.Option(metavar="FORMAT", help="weights: auto, bf16, int8, q4, q8")] = "auto",
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1024, help="default: all processors")
    ] = None,
    kv_type: Annotated[str, typer.Option(metavar="TYPE", help="KV cache: bf16, int8, f32")] = "bf16",
    as_json: Annotated[bool, typer.Option("--json", help="all parts, in seconds, as one JSON array")] = False,
) -> None:
    """Predict the time to read a prompt: products by the predictor, the rest timed on one layer.

    The predictor is what `trimtab measure gemm` fitted. Weights are not read, so a model may be too large for
    this machine. Attention, norms and packing are timed on one layer of each kind with weights made up.
    """
    from contextlib import closing
    from dataclasses import asdict

    from trimtab.engine.prefill_time import Planner
    from trimtab.formats import cache
    from trimtab.formats.source import open_source
    from trimtab.machine.gemm.measure import load
    from trimtab.models.config import config_from
    from trimtab.models.made import MadeSource, read_config

    predictor, lengths = load(), _lengths(tokens)
    if model.endswith(".json"):
        config = read_config(Path(model))
        planner = Planner(
            predictor,
            MadeSource(config, path=Path(model)),
            config,
            format=format,
            threads=threads,
            kv_type=kv_type,
        )
    else:
        with closing(open_source(cache.resolve(model))) as source:
            config = config_from(source)
            planner = Planner(predictor, source, config, format=format, threads=threads, kv_type=kv_type)
    found = [planner.predict(length) for length in lengths]
    if as_json:
        print_json([asdict(each) | {"seconds": each.seconds} for each in found])
        return
    print_table(
        ["TOKENS", "PREFILL, ms", "FROM", "TO", "TOKENS/S", "LAYERS", "OTHER", "HEAD", "AT LEAST"],
        [
            [str(each.tokens), *(f"{value * 1e3:.1f}" for value in (each.seconds, each.low_s, each.high_s)),
             f"{each.tokens / each.seconds:.0f}",
             *(f"{value * 1e3:.1f}" for value in (each.layers_s, each.other_s, each.head_s, each.bound_s))]
            for each in found
        ],
    )  # fmt: skip
    if not all(each.measured_around for each in found):
        note("some products are larger or smaller than all measured ones: the bound carries those")


def _lengths(text: str) -> list[int]:
    from trimtab.errors import UsageError

    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= 1_000_000 for word in words):
        raise UsageError(f"--tokens {text}: no prompt lengths", "write it like 128,512", "tokens")
    return [int(word) for word in words]
