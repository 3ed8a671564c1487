"""`trimtab measure device`: conversations on a device or under its limits: speed, memory, energy, ends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.cli.text import Group, Verb, note, print_json, print_table

EXAMPLES = """\
trimtab measure device run --plan plan.yaml         every device, engine, model and quantisation of the plan
trimtab measure device run --quick                  one short conversation with the default model, no plan
trimtab measure device report                       the table of the last run, from the machine profile
trimtab measure device report runs/device           of the run in a folder
trimtab measure device fit smollm2 --limit 300MB    would it fit? told without running it
"""

app = typer.Typer(
    cls=Group, add_completion=False, rich_markup_mode=None, no_args_is_help=True,
    help="Hold conversations on a device or under its limits: speed, memory, energy, endings.",
    epilog=EXAMPLES,
)  # fmt: skip

JsonOption = Annotated[bool, typer.Option("--json", help="one JSON value on stdout")]

RUN_EXAMPLES = """\
trimtab measure device run --plan plan.yaml --out runs/lab
trimtab measure device run --plan plan.yaml --json | jq '.rows[].decode_tokens_per_s'

A plan, everything in it optional:
  devices:
    - {name: this machine}
    - {name: small, driver: cgroup, limits: {memory_bytes: 512MB, cpus: 1.0}}
  engines: [{name: trimtab}, {name: llama.cpp}]
  models: [{model: smollm2, quants: [auto, q4]}]
  conversations: [0, 5]
  repetitions: 3
  max_tokens: 128
  lengths: forced
  sustained: {seconds: 600, window_s: 10}
"""


@app.command("run", cls=Verb, epilog=RUN_EXAMPLES)
def run_command(
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="what to run, YAML or JSON")] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="where logs and the summary go")] = Path(
        "device-run"
    ),
    quick: Annotated[bool, typer.Option(help="a short plan of its own: does it work at all?")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a plan; its summary is also written into the machine profile, as section `device`."""
    from trimtab.errors import UsageError
    from trimtab.evaluate.device import coordinator, events, summary
    from trimtab.evaluate.device.plan import Plan, read_plan
    from trimtab.machine import profile

    if (plan is None) != quick:
        raise UsageError(
            "either a plan or --quick", "`trimtab measure device run --help` shows a plan", "plan"
        )
    chosen = _quick() if plan is None else read_plan(plan)
    assert isinstance(chosen, Plan)
    with profile.watched() as watch:
        outcomes = coordinator.run(chosen, out, note)
    told = summary.section(outcomes)
    events.write_json(out / "summary.json", told)
    replayed = all(outcome.job.device.driver == "replay" for outcome in outcomes)
    profile.update("device", watch.section(told, "recorded" if replayed else "measured"))
    note(f"logs and summary are in {out}")
    _show(told["rows"], told, as_json)


@app.command(cls=Verb)
def report(
    run: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="of a run; default: the profile's last one")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the table of a run: a row for every device, engine, model and quantisation."""
    from trimtab.evaluate.device import summary
    from trimtab.machine.profile import Profile

    if run is not None:
        rows = summary.read_rows(run)
        _show(rows, {"schema": summary.SCHEMA, "rows": rows}, as_json)
        return
    data = Profile.load().need("device", allow_noisy=True)
    _show(list(data["rows"]), dict(data), as_json)


@app.command(cls=Verb)
def fit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a pulled name or a file")] = "smollm2",
    limit: Annotated[
        list[str] | None, typer.Option(metavar="SIZE", help="a memory limit, like 512MB; repeat")
    ] = None,
    format: Annotated[
        list[str] | None, typer.Option(metavar="FORMAT", help="a weight format; repeat; default: all")
    ] = None,
    context: Annotated[int, typer.Option(min=16, help="tokens that one request must have room for")] = 2048,
    run: Annotated[bool, typer.Option("--run", help="also start each under the real limit")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell which weight formats of a model fit a memory limit, by arithmetic; with --run also by trial."""
    from trimtab.engine.budget import parse_size
    from trimtab.evaluate.device import feasibility
    from trimtab.formats import cache
    from trimtab.models.packing import FORMATS

    path = cache.resolve(model, pull=True)
    limits = [parse_size(text) for text in limit or ("256MB", "512MB", "1GB")]
    before = feasibility.process_bytes(path)
    rows: list[dict[str, Any]] = []
    for name in format or FORMATS:
        for size in limits:
            told = feasibility.predict_fit(path, size, format=name, context=context, before_weights=before)
            row: dict[str, Any] = {
                "format": name, "limit_bytes": size, "needed_bytes": told.needed_bytes, "fits": told.fits,
            }  # fmt: skip
            if run:
                note(f"{name} in {size / 1e6:.0f} MB")
                answered, stopped = feasibility.try_fit(path, size, format=name, context=context)
                row |= {"happened": "answered" if answered else stopped.ending}
            rows.append(row)
    if as_json:
        print_json(rows)
        return
    columns = ["FORMAT", "LIMIT MB", "NEEDS MB", "FITS"] + ["HAPPENED"] * run
    print_table(
        columns,
        [
            [row["format"], f"{row['limit_bytes'] / 1e6:.0f}", f"{row['needed_bytes'] / 1e6:.0f}",
             "yes" if row["fits"] else "no", *([row["happened"]] if run else [])]
            for row in rows
        ],
    )  # fmt: skip


def _quick() -> Any:
    from trimtab.evaluate.device.plan import Plan

    return Plan(conversations=(0, 1), turns=2, repetitions=1, max_tokens=24, settle_s=0)


def _show(rows: list[dict[str, Any]], told: dict[str, Any], as_json: bool) -> None:
    from trimtab.evaluate.device import summary

    if as_json:
        print_json(told)
    else:
        print_table(summary.COLUMNS, [summary.cells(row) for row in rows])
