"""`trimtab fit predict requests`: what a workload of requests would take, without running it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.cli.text import Verb, note, print_json, print_table

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure llm                                  first: a minute of timing
trimtab fit predict requests --workload trace.jsonl  then: each request, and all of them
trimtab fit predict requests --prompt 900 --output 60 --price-per-hour 0.40
trimtab fit predict requests --mix chat --count 500  lengths drawn from a seed
trimtab fit predict requests --mix chat --prior      from the machine's ceilings, nothing timed
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def requests(
    workload: Annotated[
        Path | None, typer.Option(metavar="PATH", help="JSON lines of prompt_tokens and output_tokens")
    ] = None,
    prompt: Annotated[int | None, typer.Option(metavar="N", help="tokens of a single prompt")] = None,
    output: Annotated[int, typer.Option(metavar="N", help="tokens of its output")] = 64,
    mix: Annotated[
        str | None, typer.Option(metavar="MIX", help="draw lengths: chat, summary, extract or mixed")
    ] = None,
    count: Annotated[int, typer.Option(metavar="N", help="requests of the mix", min=1)] = 100,
    seed: Annotated[int, typer.Option(metavar="N", help="of the mix")] = 0,
    model: Annotated[str, typer.Option(metavar="MODEL", help="file, folder, or pulled name")] = "smollm2",
    engine: Annotated[
        str, typer.Option(metavar="ENGINE", help="trimtab, llamacpp, vllm, or the address of a server")
    ] = "trimtab",
    batch: Annotated[int, typer.Option(metavar="N", help="equal requests that run together", min=1)] = 1,
    price: Annotated[
        float | None, typer.Option("--price-per-hour", metavar="X", help="of the machine, for a cost", min=0)
    ] = None,
    prior: Annotated[
        bool, typer.Option("--prior", help="the machine's ceilings instead of timed requests: a lower bound")
    ] = False,
    allow_noisy: Annotated[
        bool, typer.Option("--allow-noisy", help="also take a fit from a busy machine")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="every request as one JSON object")] = False,
) -> None:
    """Predict time and cost of a workload from the fit that `trimtab measure llm` left in the profile."""
    from trimtab.errors import UsageError
    from trimtab.evaluate import workload as workloads

    if [workload, prompt, mix].count(None) != 2:
        raise UsageError("which requests?", "give one of --workload, --prompt and --mix", "workload")
    if workload is not None:
        asked = workloads.read_trace(workload)
    elif mix is not None:
        asked = workloads.mix(mix, count, seed)
    else:
        if not prompt or prompt < 1 or output < 1:
            raise UsageError(
                f"--prompt {prompt} --output {output}: lengths are counted from 1", param="prompt"
            )
        asked = [workloads.Request(prompt, output)]
    fitted = _prior(model, batch) if prior else _fitted(model, engine, allow_noisy)
    found = workloads.predict(fitted, asked, batch=batch, price_per_hour=price)
    threads = fitted.settings.get("threads")
    joules = workloads.energy(found.total_s, int(threads)) if threads else None
    if as_json:
        print_json({
            "model": fitted.model, "engine": fitted.engine, "basis": fitted.basis,
            "statistic": fitted.statistic,
            "batch": batch, "total_s": found.total_s, "low_s": found.low_s, "high_s": found.high_s,
            "cost": found.cost, "energy": None if joules is None else joules.as_json(),
            "requests": [
                {**asdict(request), **asdict(one)} for request, one in zip(asked, found.each, strict=True)
            ],
        })  # fmt: skip
        return
    shown = list(zip(asked, found.each, strict=True))[:20]
    rows = [
        [
            str(r.prompt_tokens),
            str(r.output_tokens),
            _ms(e.first_s),
            _ms(e.total_s),
            f"{_ms(e.low_s)}-{_ms(e.high_s)}",
        ]
        for r, e in shown
    ]
    print_table(["PROMPT", "OUTPUT", "FIRST ms", "TOTAL ms", "90 % OF SUCH ms"], rows)
    if len(asked) > len(shown):
        note(f"and {len(asked) - len(shown)} more; --json has them all")
    cost = "" if found.cost is None else f", {found.cost:.4g} at {price:g} an hour"
    together = "one after the other" if batch == 1 else f"{batch} at a time"
    if joules is not None:
        note(f"{joules}: cores and their share at rest by data sheet, without memory")
    note(
        f"{len(asked)} requests {together}: {found.total_s:.2f} s "
        f"({found.low_s:.2f} to {found.high_s:.2f}){cost}; {fitted.basis}, {fitted.statistic} over trials"
    )


def _fitted(model: str, engine: str, allow_noisy: bool) -> Any:
    from trimtab.formats import cache
    from trimtab.machine.profile import Profile
    from trimtab.machine.requests import profile as request_profile

    identity = model
    if "://" not in engine:
        identity = request_profile.model_identity(cache.resolve(model))
    return request_profile.find(Profile.load(), identity, engine, allow_noisy=allow_noisy)


def _prior(model: str, batch: int) -> Any:
    from trimtab.evaluate.llm import prior_of
    from trimtab.evaluate.targets import Inside

    with Inside(model) as target:
        return prior_of(target, sorted({1, batch}))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"
