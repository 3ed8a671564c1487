"""`trimtab measure llm`: how long requests take with a model on an engine."""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab.cli.text import Verb, note, print_json, print_table

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure llm                                  smollm2 on trimtab, about a minute
trimtab measure llm --quick                          12 s, coarser
trimtab measure llm --model m.gguf --batch 1,4,8     also what 4 and 8 together take
trimtab measure llm --model m.gguf --engine llamacpp its server is started and ended here
trimtab measure llm --engine http://127.0.0.1:8000   any server that speaks OpenAI's protocol
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def llm(
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="file, folder, pulled name or hub id; default: smollm2"),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="ENGINE", help="trimtab, llamacpp, vllm, or the address of a server")
    ] = "trimtab",
    batch: Annotated[
        str,
        typer.Option(metavar="N,N", help="how many equal requests run together; each is a fit of its own"),
    ] = "1",
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="longest time of all runs, as 300s or 5m")
    ] = "300s",
    quick: Annotated[bool, typer.Option("--quick", help="12 s and short outputs")] = False,
    threads: Annotated[int | None, typer.Option(metavar="N", help="of the engine; default: all")] = None,
    format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="weights in trimtab: auto, bf16, int8, q4, q8")
    ] = None,
    kv_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="KV cache in trimtab: bf16, int8, f32")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="of prompts and order")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="fit, samples and modes as one JSON object")
    ] = False,
) -> None:
    """Time a few dozen requests and fit what any other would take; the fit goes into the machine profile.

    T(p, o) = alpha(p) + beta (o - 1) + gamma x context. Prefix caching and drafting are off where possible.
    """
    from trimtab.evaluate.llm import measure
    from trimtab.evaluate.targets import open_target
    from trimtab.machine.requests.model import RequestModel

    chosen = {"threads": threads, "format": format, "kv_type": kv_type}
    options = {name: value for name, value in chosen.items() if value is not None}
    named = model if model is not None else "" if "://" in engine else "smollm2"
    target = open_target(engine, named, **options)
    try:
        told = measure(
            target, batches=_batches(batch), budget_s=_seconds(budget), quick=quick, seed=seed, say=note
        )
    finally:
        target.close()
    if as_json:
        print_json(told)
        return
    fitted = RequestModel.from_json(told["fit"])
    rows = []
    for count, fit in sorted(fitted.fits.items()):
        errors = fit.errors
        rows.append([
            str(count), f"{fit.alpha.at(1) * 1e3:.2f}", f"{fit.alpha.at(512) * 1e3:.1f}",
            f"{fit.beta_s * 1e3:.3f}",
            f"{fit.gamma_s * 1e6:.3f}", "–" if errors is None else f"{errors.mean:.1%}",
            "–" if errors is None else f"{errors.p95:.1%}", str(fit.trials),
        ])  # fmt: skip
    head = ["TOGETHER", "ALPHA(1) ms", "ALPHA(512) ms", "BETA ms", "GAMMA us", "LEFT OUT", "95 %", "REQUESTS"]
    print_table(head, rows)
    modes = ", ".join(f"{name} {state}" for name, state in told["modes"].items())
    note(f"{fitted.model} on {fitted.engine}: {told['runs']} runs in {told['seconds']:.0f} s; {modes}")
    note(f"anchors drifted by {told['drift'] - 1:.0%}; null request {fitted.overhead_s * 1e3:.2f} ms")
    if told["noisy"]:
        note("the machine was busy meanwhile: readers of the profile will ask for --allow-noisy")
    note(f"saved in {told['profile']}")


def _batches(text: str) -> list[int]:
    from trimtab.errors import UsageError

    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or not all(1 <= count <= 64 for count in counts):
        raise UsageError(f"--batch {text}: not numbers from 1 to 64", "write them as 1,2,4,8", "batch")
    return counts


def _seconds(text: str) -> float:
    from trimtab.errors import UsageError

    units = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0}
    number = text.strip().rstrip("smin")
    try:
        value = float(number) * units[text.strip()[len(number) :]]
    except (ValueError, KeyError):
        value = -1.0
    if not value > 0:
        raise UsageError(f"--budget {text}: not a time", "write it as 90s or 5m", "budget")
    return value
