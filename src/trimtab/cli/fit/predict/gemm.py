"""`trimtab fit predict gemm`: the time of a matrix product that need not have been run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.text import Verb, note, print_json

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab fit predict gemm 512 4096 4096                  512 rows, 4096 outputs, 4096 inputs, int8
trimtab fit predict gemm 1 49152 576 --format q4        one row of a vocabulary projection
trimtab fit predict gemm 64 11008 4096 --gated          gate and up together
trimtab fit predict gemm 512 4096 4096 --json | jq .seconds
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def gemm(
    m: Annotated[int, typer.Argument(metavar="M", min=1, max=1_000_000, help="rows of activations")],
    n: Annotated[int, typer.Argument(metavar="N", min=1, max=10_000_000, help="outputs")],
    k: Annotated[int, typer.Argument(metavar="K", min=1, max=10_000_000, help="inputs")],
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help="of the weights: int8, bf16, q4, q8; q4 stands for q4+min")
    ] = "int8",
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1024, help="default: all processors")
    ] = None,
    gated: Annotated[bool, typer.Option("--gated", help="a gate and an up matrix of N outputs each")] = False,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="another machine profile than this machine's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object, in seconds")] = False,
) -> None:
    """Predict the time of one matrix product, with error bars and the least time the machine allows.

    The predictor is in the machine profile; `trimtab measure gemm` puts it there. Bars hold 80 % of products
    that were not learned from.
    """
    from trimtab.machine.gemm import energy, measure
    from trimtab.machine.gemm.model import GemmModel
    from trimtab.machine.gemm.shapes import Shape
    from trimtab.machine.probe import describe
    from trimtab.machine.profile import Profile

    data = Profile.load(profile).need(measure.SECTION)
    model = GemmModel.from_json(data["model"])
    count, shape = threads or describe().usable, Shape(m, n, k, gated)
    # The engine makes 4-bit weights with minima; a profile may hold either kind.
    name = "q4+min" if format == "q4" and ("q4+min", count) in model.ranges else format
    told = model.predict(name, shape, count)
    power = energy.Power.from_json(data["energy"]) if data["energy"] else None
    cost = power.energy(name, shape, told.seconds) if power else None
    if as_json:
        print_json({
            "m": m, "n": n, "k": k, "gated": gated, "format": name, "threads": count,
            "seconds": told.seconds, "low_s": told.low_s, "high_s": told.high_s, "bound_s": told.roof_s,
            "limit": told.limit, "measured_around": told.measured_around,
            "energy": cost.as_json() if cost else None,
        })  # fmt: skip
        return
    print(
        f"{shape.name} in {name} on {count} thread{'s' * (count > 1)}: {_time(told.seconds)} "
        f"({_time(told.low_s)} to {_time(told.high_s)}), {shape.ops / told.seconds / 1e9:.0f} Gop/s"
    )
    print(
        f"at least {_time(told.roof_s)} here, by {told.limit}: {told.roof_s / told.seconds:.0%} of that speed"
    )
    if cost:
        print(f"energy: {cost}")
    if not told.measured_around:
        note("nothing of this size was measured: this is the bound times what the nearest product missed")


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{seconds / scale:.3g} {unit}"
    raise AssertionError("unreachable")
