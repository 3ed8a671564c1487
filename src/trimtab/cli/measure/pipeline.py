"""`trimtab measure pipeline`: where a served pipeline's time goes, and how much it can take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.cli.text import Verb, note, print_json, print_table

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure pipeline ocr.yaml                        with a built-in mix of pages
trimtab measure pipeline ocr.yaml --images mix.json      with one's own pictures
trimtab measure pipeline ocr.yaml --rate 1..8 --open-loop   and latency at rates between
trimtab measure pipeline ocr.yaml --quick --json         a short look, as JSON
"""
STEPS = 4


@app.command(cls=Verb, epilog=EXAMPLES)
def pipeline(
    path: Annotated[Path, typer.Argument(metavar="PIPELINE", help="the pipeline's YAML file")],
    images: Annotated[
        Path | None, typer.Option(metavar="MIX", help="JSON file of pages, photos and files; default: pages")
    ] = None,
    rate: Annotated[
        str, typer.Option(metavar="RATES", help="pictures a second: 5, or 2,4,8, or 1..8 for four steps")
    ] = "",
    open_loop: Annotated[
        bool,
        typer.Option(
            "--open-loop",
            help="send at --rate whatever the server does; default without --rate: "
            "only the closed loop that saturates it",
        ),
    ] = False,
    clients: Annotated[int, typer.Option(metavar="N", min=0, help="of the closed loop; 0: three a core")] = 0,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.5, help="of each run")] = 10.0,
    seed: Annotated[int, typer.Option(metavar="N", help="of arrivals and order")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="short runs: does it work, and roughly how fast?")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the whole section, as JSON")] = False,
) -> None:
    """Serve a pipeline, load it, and say what each stage demands of the processors.

    Writes the section `pipeline` of the machine profile, which `trimtab fit pipeline` plans from.
    """  # fmt: skip
    from trimtab.errors import UsageError
    from trimtab.machine import profile
    from trimtab.server.pipeline.images import Mix, load_mix
    from trimtab.server.pipeline.launch import open_spec
    from trimtab.server.pipeline.measure import SECTION, measure

    rates = rates_of(rate)
    if rates and not open_loop:
        raise UsageError("--rate is for an open loop", "add --open-loop, or leave --rate out", "rate")
    if open_loop and not rates:
        raise UsageError("--open-loop needs to know how fast", "add --rate 1..8", "rate")
    open_spec(path)
    if images is None:
        lines = (1, 4, 8) if quick else (0, 1, 4, 8, 16, 40)
        pages = ({"lines": n, "width": 640 if n < 40 else 760, "height": 480} for n in lines)
        entries = [{"page": page, "count": 1 if quick else 2} for page in pages]
        mix = Mix.model_validate({"pictures": entries})
        beside = Path()
    else:
        mix, beside = load_mix(images), images.parent
    with profile.watched() as watch:
        found = measure(
            path, mix, rates=rates, clients=clients, seconds=seconds, seed=seed, quick=quick, beside=beside,
            say=note,
        )  # fmt: skip
    place = profile.update(SECTION, watch.section(found))
    if as_json:
        print_json(found)
        return
    show(found)
    note(f"written to {place}")


def rates_of(text: str) -> list[float]:
    """`5`, `2,4,8`, or `1..8` as four rates between.

    Raises
    ------
    UsageError : it is none of these
    """
    from trimtab.errors import UsageError

    try:
        if ".." in text:
            low, high = (float(part) for part in text.split("..", 1))
            rates = [low * (high / low) ** (step / (STEPS - 1)) for step in range(STEPS)]
        else:
            rates = [float(part) for part in text.split(",") if part.strip()]
    except (ValueError, ZeroDivisionError):
        rates = [-1.0]
    if any(not 0 < value <= 100_000 for value in rates):
        raise UsageError(f"--rate {text}: no rates", "such as 5, or 2,4,8, or 1..8", "rate")
    return rates


def show(found: dict[str, Any]) -> None:
    """The section as tables."""
    shares = found["cpu_share"]
    print_table(
        ["STAGE", "CPU MS A PICTURE", "A MEGAPIXEL", "SHARE"],
        [
            [name, f"{value:.2f}", f"{found['cpu_ms_per_megapixel'][name]:.2f}", f"{shares[name]:.1%}"]
            for name, value in found["cpu_ms"].items()
        ],
    )
    print()
    print(f"saturated: {found['pictures_per_s']:.2f} pictures/s on {found['cores']} cores")
    print(
        f"networks alone: {found['networks_alone_per_s']:.2f}/s; {found['preserved']:.0%} of it is preserved"
    )
    print(f"stages add up to {found['stages_over_total']:.1%} of a request's time")
    if found["runs"]:
        print()
        print_table(
            ["RATE", "DONE/S", "REFUSED", "P50 MS", "P99 MS"],
            [
                [
                    f"{run['rate_per_s']:.2f}",
                    f"{run['per_s']:.2f}",
                    str(run["refused"]),
                    f"{run['p50_ms']:.0f}",
                    f"{run['p99_ms']:.0f}",
                ]
                for run in found["runs"]
            ],
        )
