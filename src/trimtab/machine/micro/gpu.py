"""The rows of a GPU: runs the program of `native/cuda/micro`, reads what it prints, drops what cannot be.

The program is built with nvcc, apart from the package and for compute capability 9.0. It says what it runs
on, then one row a line in the format of `rows`, and checks products and copies against the host itself. How
a figure is taken is not known here. Method: arXiv 2402.13499.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import NotMeasured
from trimtab.machine.micro.rows import LEAST_CYCLES, Row, from_dict

PROGRAM = "trimtab-gpu-micro"
BUILD = (
    "build it where nvcc is: `cmake -S native/cuda/micro -B build/gpu-micro && cmake --build build/gpu-micro`"
)
DEVICE = ("device", "capability", "processors", "clock_hz", "l2_bytes", "memory_bytes", "driver")


def measure(
    program: Path | None = None, *, quick: bool = False, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run the program on the first GPU: the section `gpu_units`.

    Parameters
    ----------
    program : default `trimtab-gpu-micro` on the path
    say : told each name when its first row has come

    Returns
    -------
    `device`, `rows` (see `Row`), `refused`, `peaks` (operations a second by type, and the row that reaches
    them), `zeros` (how many times faster each product is on zeros, which draw less power)

    Raises
    ------
    NotMeasured : no such program, it failed (a wrong product is a failure), or what it printed is no row
    """
    name = str(program or PROGRAM)
    found = shutil.which(name)
    if found is None:
        raise NotMeasured(f"no program `{name}` to run", BUILD, "program")
    device: dict[str, Any] = {}
    rows: list[Row] = []
    with tempfile.TemporaryFile() as complaints:
        command = [found, *(["--quick"] if quick else [])]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, text=True
        )
        with process:  # a parser that gives up ends the program as well
            try:
                for line in process.stdout or ():
                    if not device:
                        device = _device(line)
                        say(f"{device['device']}, {device['processors']} processors")
                        continue
                    row = _row(line)
                    if not rows or rows[-1].name != row.name:
                        say(row.name)
                    rows.append(row)
            except BaseException:
                process.kill()
                raise
        if process.returncode or not rows:
            complaints.seek(0)
            text = complaints.read().decode(errors="replace").strip() or "no reason given"
            raise NotMeasured(
                f"`{name}` ended with {process.returncode} after {len(rows)} rows: {text}",
                "it needs a GPU of compute capability 9.0 with a driver",
            )
    good = [row for row in rows if possible(row)]
    return {
        "device": device,
        "rows": [row.as_dict() for row in good],
        "refused": [row.as_dict() for row in rows if row not in good],
        "peaks": peaks(good),
        "zeros": zeros(good),
    }


def possible(row: Row) -> bool:
    """The figures are those of work that was done."""
    figures = (row.ns, row.median_ns, row.iqr_ns, row.rate, row.cycles or 0.0)
    return (
        all(math.isfinite(each) and each >= 0 for each in figures)
        and row.ns > 0
        and (row.cycles is None or row.cycles >= LEAST_CYCLES)
    )


def peaks(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The highest rate on random data by type of a tensor product (`wgmma bf16 ss` is of bf16)."""
    found: dict[str, dict[str, Any]] = {}
    for row in _products(rows, "random"):
        kind = row.name.split()[1]
        if row.rate > found.get(kind, {"rate": 0.0})["rate"]:
            found[kind] = {"rate": row.rate, "kind": f"{row.name} n={row.detail.get('n')}"}
    return found


def zeros(rows: Sequence[Row]) -> dict[str, float]:
    """Rate on zeros over that on random data, of every product that has both."""
    plain = {(row.name, row.detail.get("n")): row.rate for row in _products(rows, "random")}
    return {
        f"{row.name} n={row.detail.get('n')}": row.rate / plain[key]
        for row in _products(rows, "zeros")
        if plain.get(key := (row.name, row.detail.get("n")))
    }


def _products(rows: Sequence[Row], data: str) -> list[Row]:
    return [
        row
        for row in rows
        if row.suite == "throughput"
        and row.name.startswith(("mma ", "wgmma "))
        and row.detail.get("data") == data
    ]


def _device(line: str) -> dict[str, Any]:
    data = _json(line)
    if missing := [key for key in DEVICE if key not in data]:
        raise _strange(line, f"it lacks {', '.join(missing)}")
    return {key: data[key] for key in DEVICE}


def _row(line: str) -> Row:
    data = _json(line)
    try:
        row = from_dict(data)
    except KeyError as error:
        raise _strange(line, f"it lacks {error}") from error
    texts = (row.name, row.suite, row.unit, row.method)
    numbers = (row.ns, row.rate, row.median_ns, row.iqr_ns, 0.0 if row.cycles is None else row.cycles)
    counts = (row.width_bits, row.cores, row.n)
    if not (
        all(isinstance(each, str) for each in texts)
        and all(isinstance(each, int | float) for each in numbers)
        and all(isinstance(each, int) for each in counts)
        and isinstance(row.detail, dict)
        and row.name
    ):
        raise _strange(line, "a field is of another type")
    return row


def _json(line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise _strange(line, str(error)) from error
    if not isinstance(data, dict):
        raise _strange(line, "it is no object")
    return data


def _strange(line: str, why: str) -> NotMeasured:
    return NotMeasured(f"`{line.strip()[:80]}` is no row: {why}", "is this the program of native/cuda/micro?")
