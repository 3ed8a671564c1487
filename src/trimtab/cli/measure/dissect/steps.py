"""What the commands that take training steps apart share: options, one cell, a grid of cells, the tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.text import note, print_json, print_table, size, waiting
from trimtab.errors import NotMeasured, TrimtabError

if TYPE_CHECKING:
    from trimtab.formats.source import TensorSource
    from trimtab.models.config import ModelConfig
    from trimtab.train.costs import StepCosts

Techniques = Annotated[
    str,
    typer.Option(
        metavar="CODES",
        help="F fused attention, R recomputation, L low-rank, QL over four bits, bf16, offload; by comma",
    ),
]
Batch = Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="sequences of a step")]
Length = Annotated[int, typer.Option(metavar="N", min=2, max=1 << 20, help="tokens of each")]
Steps = Annotated[int, typer.Option("--steps", metavar="N", min=1, max=1000, help="measured, after three")]
Threads = Annotated[int | None, typer.Option(metavar="N", min=1, help="of torch; default: all processors")]
Out = Annotated[Path | None, typer.Option(metavar="PATH", help="write everything measured, as JSON")]
Json = Annotated[bool, typer.Option("--json", help="everything measured, as one JSON object on stdout")]

GRID = ("", "F", "R", "F,R", "L", "F,L", "QL", "F,QL", "F,R,QL", "F,bf16", "F,offload")
SECTION = "train"
SHOWN = 14


def one(
    config: ModelConfig, source: TensorSource | None, techniques: str, batch: int, length: int, count: int,
    threads: int | None, *, out: Path | None, as_json: bool, stage: str,
) -> None:  # fmt: skip
    """Measure one cell and print it."""
    try:
        from trimtab.train.cell import Cell, run
        from trimtab.train.trainer import Techniques as Chosen
    except ModuleNotFoundError as error:
        raise TrimtabError(f"training needs {error.name}", '`pip install "trimtab[torch]"`') from error
    costs = _costs()
    cell = Cell(config, source, Chosen.of(techniques), batch=batch, length=length, threads=threads)
    try:
        told = {"stage": stage, "model": config.name, **run(cell, costs, count, note)}
    finally:
        cell.close()
    if out is not None:
        _write(out, told)
    if as_json:
        print_json(told)
    else:
        _show(told)


def grid(command: list[str], out: Path | None, as_json: bool) -> None:
    """The same command for each usual set, each in a process of its own so that memory is its own."""
    cells: list[dict[str, Any]] = []
    for codes in GRID:
        with waiting(f"{codes or 'naive'} ({len(cells) + 1}/{len(GRID)})"):
            done = subprocess.run(
                [sys.executable, "-c", "from trimtab.cli.main import main; main()", "measure", "dissect",
                 *command, "--techniques", codes, "--json"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        if done.returncode:
            note(f"{codes or 'naive'}: {done.stderr.strip().splitlines()[-1:]}")
            continue
        cells.append(json.loads(done.stdout))
    if out is not None:
        _write(out, cells)
    if as_json:
        print_json(cells)
        return
    rows = [
        [c["techniques"], f"{c['median_seconds']:.3f}", f"{c['predicted_seconds']:.3f}",
         f"{c['closure']:.1%}",
         *(size(c["memory"][key]) for key in ("weights", "gradients", "optimizer", "activations")),
         size(c["memory"]["allocated_peak"])]
        for c in cells
    ]  # fmt: skip
    print_table(
        ["TECHNIQUES", "STEP s", "PREDICTED s", "EXPLAINED", "WEIGHTS", "GRADIENTS", "OPTIMIZER",
         "ACTIVATIONS", "PEAK"], rows,
    )  # fmt: skip


def _costs() -> StepCosts:
    """From the profile; measured now, and kept there, when it has none that may be used."""
    from trimtab.machine.profile import Profile, update, watched
    from trimtab.train.costs import StepCosts
    from trimtab.train.reference_steps import measure

    try:
        return StepCosts.of(Profile.load().need(SECTION))
    except NotMeasured:
        note("measuring what a training step's operators cost here, less than a minute")
    with watched() as watch:
        data = measure()
    update(SECTION, watch.section(data))
    return StepCosts.of(data)


def _show(told: dict[str, Any]) -> None:
    note(
        f"{told['model']}, {told['techniques']}, {told['batch']} x {told['length']} tokens: "
        f"{told['median_seconds']:.3f} s a step, predicted {told['predicted_seconds']:.3f}; modules explain "
        f"{told['closure']:.1%}; the recorder costs {told['recorder_ratio'] - 1:+.1%}"
    )
    memory = told["memory"]
    parts = ("weights", "gradients", "optimizer", "activations", "temporary")
    note(
        ", ".join(f"{part} {size(memory[part])}" for part in parts)
        + f"; at most {size(memory['allocated_peak'])} at once, {size(memory['rss_growth'])} resident with "
        f"{size(memory['spare'])} that the C library kept; predicted {size(told['predicted_bytes'])}"
    )
    print_table(
        ["STAGE", "MODULE", "CALLS", "ms", "SHARE"],
        [[r["stage"], r["module"], str(r["calls"]), f"{r['seconds'] * 1e3:.1f}", f"{r['share']:.1%}"]
         for r in told["modules"][:SHOWN]],
    )  # fmt: skip
    print_table(
        ["STAGE", "OPERATOR", "CALLS", "ms", "GFLOP/s", "GB/s", "BOUND ms", "BOUND BY"],
        [[r["stage"], r["operator"], str(r["calls"]), f"{r['seconds'] * 1e3:.1f}",
          *(f"{r[key] / 1e9:.1f}" if r.get(key) else "–" for key in ("operations_per_s", "bytes_per_s")),
          f"{r['bound_seconds'] * 1e3:.1f}" if "bound_seconds" in r else "–", r.get("class", "–")]
         for r in told["operators"][:SHOWN]],
    )  # fmt: skip


def _write(path: Path, told: Any) -> None:
    """In one piece."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
