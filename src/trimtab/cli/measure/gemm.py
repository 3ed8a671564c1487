"""`trimtab measure gemm`: how long matrix products take here, and a predictor fitted to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.text import Verb, note, print_json, print_table

if TYPE_CHECKING:
    from trimtab.machine.gemm.shapes import Shape

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure gemm                              layers of language models and a grid, seven minutes
trimtab measure gemm --quick                      20 s: does it work? the profile gets it, engines do not
trimtab measure gemm --format int8,q4+min --threads 2 --budget 200s
trimtab measure gemm --shapes mine.txt            lines of `m n k`, `gated` behind gate-and-up layers
trimtab fit predict gemm 512 4096 4096            what it is for
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def gemm(
    format: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="weight formats, most wanted first; default: int8,bf16,q4+min,q8,q4"
        ),
    ] = None,
    threads: Annotated[
        str | None, typer.Option(metavar="N,N", help="most wanted first; default: all processors, and 1")
    ] = None,
    shapes: Annotated[
        str, typer.Option(metavar="llm|grid|FILE", help="which products; `all` is llm and grid")
    ] = "all",
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="timing and learning together, as 300s or 7m")
    ] = "420s",
    quick: Annotated[bool, typer.Option("--quick", help="20 s and coarse")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the profile's file; default: trimtab's cache")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the whole section as one JSON object")] = False,
) -> None:
    """Time matrix products of many sizes, learn from them, and keep the predictor in the machine profile.

    Models that are loaded afterwards run each layer with the blocking that it finds best. A run that is
    broken off is taken up again within an hour. Learning needs scikit-learn (`pip install trimtab[predict]`).
    """
    from trimtab.machine.gemm import measure as measuring
    from trimtab.machine.gemm import plan
    from trimtab.machine.profile import watched

    formats = _words(format) if format else plan.FORMATS
    with watched() as watch:
        data = measuring.measure(
            formats=_known(formats), threads=_counts(threads), wanted=_shapes(shapes), quick=quick,
            budget_s=_seconds(budget), say=note, path=out,
        )  # fmt: skip
    section = watch.section(data)
    place = measuring.save(section, out)
    if as_json:
        print_json(section.data)
    else:
        _show(section.data)
    if section.noisy:
        note(f"noisy: {section.others:.0%} other work, {section.steal:.0%} stolen; nothing will use it")
    note(f"written to {place}")


def _show(data: Any) -> None:
    validation = data["validation"]
    print("products left out by shape")
    print_table(
        ["FORMAT", "THREADS", "PREDICTOR", "MEDIAN ERROR", "MEAN", "R2 OF LOGS", "ROWS", "IN THE 80 % BAND"],
        [
            [
                line["format"], str(line["threads"]), line["predictor"], f"{line['median_error']:.1%}",
                f"{line['mean_error']:.1%}", f"{line['r2_log']:.3f}", str(line["rows"]),
                f"{line['in_band']:.0%}" if "in_band" in line else "",
            ]
            for line in validation["accuracy"]
        ],
    )  # fmt: skip
    picks = validation["selection"]
    if picks["products"]:
        naive = f", {picks['over_naive']:.2f} of no blocking at all" if picks["over_naive"] else ""
        print(
            f"\nchosen blockings, {picks['products']} products: {picks['over_best']:.3f} of the best found, "
            f"{picks['over_default']:.3f} of the default{naive}"
        )
    if data["libraries"]:
        print()
        print_table(
            ["FORMAT", "THREADS", "PRODUCT", "HERE, us", "TORCH, us", "TIMES"],
            [
                [
                    line["format"], str(line["threads"]), line["shape"], f"{line['ours_s'] * 1e6:.1f}",
                    f"{line['seconds'] * 1e6:.1f}", f"{line['seconds'] / line['ours_s']:.2f}",
                ]
                for line in data["libraries"]
            ],
        )  # fmt: skip
    if data["energy_absent"]:
        note(f"energy: {data['energy_absent']}")


def _known(formats: Any) -> list[str]:
    from trimtab import _native
    from trimtab.errors import UnknownName

    for format in formats:
        try:
            _native.format_form(format)
        except ValueError as error:
            raise UnknownName(str(error), "such as int8,bf16,q4+min", "format") from None
    return list(formats)


def _shapes(text: str) -> list[Shape]:
    from trimtab.machine.gemm import shapes

    if text == "all":
        return []
    if text == "llm":
        return shapes.llm()
    if text == "grid":
        return shapes.grid(300)
    return shapes.read(Path(text))


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(filter(None, (word.strip() for word in text.split(",")))))


def _counts(text: str | None) -> list[int]:
    from trimtab.errors import UsageError

    words = _words(text or "")
    if text is not None and not (words and all(w.isdecimal() and 1 <= int(w) <= 1024 for w in words)):
        raise UsageError(f"--threads {text}: no numbers of threads", "write it like 2,1", "threads")
    return [int(word) for word in words]


def _seconds(text: str) -> float:
    import re

    from trimtab.errors import UsageError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|)", text)
    if not match or not 5 <= (seconds := float(match[1]) * (60 if match[2] == "m" else 1)) <= 7200:
        raise UsageError(f"--budget {text}: no time from 5 s to 2 h", "write it like 300s or 7m", "budget")
    return seconds
