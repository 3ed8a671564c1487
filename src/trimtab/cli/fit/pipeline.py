"""`trimtab fit pipeline`: settings of a vision pipeline for a latency objective, from what was measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.text import Verb, note, print_json

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure pipeline ocr.yaml                       first
trimtab fit pipeline ocr.yaml --slo p99=300ms           what to set, and what to expect
trimtab fit pipeline ocr.yaml --slo p99=300ms --rate 4  compared at four pictures a second
trimtab fit pipeline ocr.yaml --slo p99=300ms -o planned.yaml
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def pipeline(
    path: Annotated[Path, typer.Argument(metavar="PIPELINE", help="the pipeline's YAML file")],
    slo: Annotated[str, typer.Option(metavar="SLO", help="objective: p99=300ms, or p99=2s")] = "p99=500ms",
    rate: Annotated[
        float | None,
        typer.Option(metavar="R", min=0.001, help="pictures a second; default: 70 % of the knee"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PATH", help="write the planned pipeline there")
    ] = None,
    allow_noisy: Annotated[
        bool, typer.Option("--allow-noisy", help="plan from a measurement on a busy machine, too")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the plan as JSON")] = False,
) -> None:
    """Choose batch size and delay, decode scale and hand-over of a pipeline from the profile's measurement.

    Latencies are simulated from measured demands; the knee follows from the demands themselves.
    """
    import yaml

    from trimtab.errors import NotMeasured
    from trimtab.machine.profile import Profile
    from trimtab.search.pipeline_plan import applied, plan
    from trimtab.server.pipeline.launch import open_spec
    from trimtab.server.pipeline.measure import SECTION

    spec = open_spec(path)
    section = Profile.load().need(SECTION, allow_noisy=allow_noisy)
    hint = f"measure this one: `trimtab measure pipeline {path}`"
    if section["name"] != spec.name:
        raise NotMeasured(f"the measured pipeline is {section['name']!r}, this one is {spec.name!r}", hint)
    found = plan(section, milliseconds(slo), rate)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["stages"] = applied(content["stages"], found.changes)
    if output is not None:
        temporary = output.with_name(f".{output.name}.new")
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        temporary.replace(output)
        note(f"written to {output}")
    if as_json:
        print_json(asdict(found))
        return
    print(f"knee: {found.knee_per_s:.2f} pictures/s; the networks alone would promise "
          f"{found.networks_only_per_s:.2f}")  # fmt: skip
    print(f"at {found.rate_per_s:.2f}/s: p99 {found.p99_ms:.0f} ms (simulated), now "
          f"{found.unchanged_p99_ms:.0f} ms")  # fmt: skip
    print(f"p99 stays inside {found.slo_p99_ms:g} ms up to {found.slo_rate_per_s:.2f} pictures/s (simulated)")
    print()
    for reason in found.reasons:
        print(f"  {reason}")
    if output is None:
        print()
        print(yaml.safe_dump({"stages": content["stages"]}, sort_keys=False), end="")


def milliseconds(slo: str) -> float:
    """`p99=300ms` or `p99=2s` in milliseconds.

    Raises
    ------
    UsageError : it is neither
    """
    import re

    from trimtab.errors import UsageError

    found = re.fullmatch(r"p99=(\d+(?:\.\d+)?)(ms|s)", slo.strip())
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"--slo {slo}: no objective", "such as p99=300ms", "slo")
    return float(found[1]) * (1000.0 if found[2] == "s" else 1.0)
