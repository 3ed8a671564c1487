"""What is measured of single units explains whole operators, and two measurements agree.

Work: `measure micro` at the start and again at the end, and between them twelve operators of the engine
(three products of one row, two of many, a norm, an addition, attention at three contexts, sampling), each
beside the bandwidth of its own working set in the same second. Units are held against issue width x lanes x
measured clock, latencies against a published table of the same processor (`units/zen4.toml` names it), knees
against the cache sizes that the system reports, predictions against measured times, and against those of a
data sheet. What torch reaches of the peaks stands in the table. The shared cache of a virtual machine is
what its neighbours leave: its knee is reported as found; and where the hypervisor maps small pages, huge ones
of the guest remove only a part of the translation's cost. A GPU's list (wgmma, distributed shared memory,
TMA, FP8) is measured by `trimtab measure micro --gpu` where there is one, and not here.
"""

from __future__ import annotations

import os
import statistics
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.errors import Busy
from trimtab.machine import micro, quiet
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.micro.rows import Row, from_dict
from trimtab.machine.micro.units import processors
from trimtab.machine.probe import describe
from trimtab.machine.report import Report, command_line, versions
from units import prediction
from units.operators import operators

CLAIM = (__doc__ or "").partition("\n")[0]
PUBLISHED = Path(__file__).resolve().parent / "units" / "zen4.toml"
PEAKS = ("fma_f32 512", "dpbf16 512", "dpbusd 512")
LANE_OPS = {"int8": 128.0, "bf16": 64.0, "f32": 32.0}
"""Operations of a 512-bit instruction of each kind."""


def run(options: BenchOptions) -> Report:
    quiet.wait(options.patience_seconds)
    published = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))
    known = _is(published)
    started = time.monotonic()
    first = micro.measure(quick=options.quick)
    rounds, cells = _operators(first, published, options)
    torch_rows = _torch(first["peak_units"], options)
    quiet.wait(options.patience_seconds)
    apart = time.monotonic() - started
    second = micro.measure(quick=options.quick)

    units = [from_dict(row) for row in first["peak_units"]["rows"]]
    targets = [*_units(first["peak_units"], units, published if known else None)]
    targets += _memory(first["latency"])
    error, sheet = cells["median error"], cells["median error by data sheet"]
    targets += [
        target("median error over twelve operators", error, most=0.2),
        target("times that error with data-sheet numbers", sheet / error, least=1.5),
        *_repeated(first, second),
        target("cycles of the cheapest instruction, the clock being known to 1 %",
               min(row.cycles for row in units if row.cycles), least=0.25 * 0.99),
        target("a load average of 0.6 is refused", float(_refuses(0.6)), least=1),
        target("a load average of 0.2 is not", float(_refuses(0.2)), most=0),
    ]  # fmt: skip
    result = {
        "ratio": sheet / error,
        "unit": "times the error of a roofline by data sheet over one by measured units",
        "limit_fraction": min((t["value"] for t in targets if "issue width" in t["what"]), default=None),
        "quality": {"median_error": error, "median_error_data_sheet": sheet},
        "samples": rounds,
        "seconds_apart": apart,
        "published": published["processor"] if known else "no table of this processor",
        "targets": targets,
        "operators": cells["rows"],
        "torch": torch_rows,
        "huge_share": first["latency"]["huge_share"],
        "ladder": _ladder(first["latency"]),
        "table": [*cells["rows"], *torch_rows, *_ladder(first["latency"])],
    }
    return Report(
        name="micro-quick" if options.quick else "micro",
        claim=CLAIM,
        machine=asdict(describe()),
        versions=versions(),
        command=command_line(),
        seeds=[0],
        samples={"first": [first], "second": [second], "operators": rounds},
        result=result,
    )


def _is(published: Mapping[str, Any]) -> bool:
    """The processor is the one of the published table."""
    fields = dict(
        (part.strip() for part in line.split(":", 1))
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        if ":" in line
    )
    return (
        fields.get("cpu family") == str(published["family"])
        and int(fields.get("model", -1)) in published["models"]
    )


def _operators(
    first: Mapping[str, Any], published: Mapping[str, Any], options: BenchOptions
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rounds of (operator, measured, predicted), and the medians; ratios are taken inside a round."""
    threads = options.threads or describe().usable
    allowed = processors()
    work = list(operators(threads, options.quick))
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        quiet.wait(min(options.patience_seconds, 5))
        for operator in work[number % len(work) :] + work[: number % len(work)]:
            # What one thread does stays on the processor whose units are measured beside it.
            cpus = allowed[: operator.threads]
            with pinned(cpus):
                seconds = operator.seconds(0.02 if options.quick else 0.05)
            ceilings, costs = prediction.beside(operator, first["peak_units"], cpus)
            predicted, limit = prediction.measured_seconds(operator, ceilings, costs)
            sheet = prediction.sheet_seconds(operator, published["data_sheet"], LANE_OPS)
            rounds.append(
                {"operator": operator.name, "round": number, "seconds": seconds, "predicted_s": predicted,
                 "limit": limit, "data_sheet_s": sheet}
            )  # fmt: skip
    rows = []
    for operator in work:
        mine = [each for each in rounds if each["operator"] == operator.name]
        rows.append(
            {
                "what": operator.name,
                "us": 1e6 * statistics.median(each["seconds"] for each in mine),
                "predicted us": 1e6 * statistics.median(each["predicted_s"] for each in mine),
                "error": statistics.median(each["predicted_s"] / each["seconds"] - 1 for each in mine),
                "by data sheet": statistics.median(
                    each["data_sheet_s"] / each["seconds"] - 1 for each in mine
                ),
                "limited by": mine[-1]["limit"],
            }
        )
    return rounds, {
        "rows": rows,
        "median error": statistics.median(abs(row["error"]) for row in rows),
        "median error by data sheet": statistics.median(abs(row["by data sheet"]) for row in rows),
    }


@contextmanager
def pinned(cpus: Sequence[int]) -> Iterator[None]:
    """Keep this thread on these processors for a while."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _units(
    section: Mapping[str, Any], rows: Sequence[Row], published: Mapping[str, Any] | None
) -> Iterator[dict[str, Any]]:
    """Throughputs against the issue width, latencies against the table; none where there is no table."""
    if published is None:
        return
    width = published["per_cycle"]
    clock = {1: section["frequency_hz"]["one"]}
    for row in rows:
        clock.setdefault(row.cores, section["frequency_hz"]["all"])
    for label in PEAKS:
        for row in (r for r in rows if r.suite == "throughput" and r.label == label):
            if row.detail.get("data") == "random":
                fraction = 1e9 / row.ns / (width[label] * clock[row.cores])
                what = f"{label} on {row.cores} core{'s' * (row.cores > 1)}: share of issue width x clock"
                yield target(what, fraction, least=0.9)
    far = {
        row.label: abs(row.cycles - published["latency"][row.label])
        for row in rows
        if row.suite == "latency" and row.cycles is not None and row.label in published["latency"]
    }
    worst = max(far, key=lambda label: far[label])
    yield target(
        f"cycles by which {len(far)} latencies differ from published, at most ({worst})", far[worst], most=1
    )


def _memory(section: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Three plateaus before memory, their knees, and the step of the address translation."""
    yield target("cache levels found in the latency curve", len(section["levels"]) - 1, least=3)
    for (name, size), knee in zip(section["reported"].items(), section["knees_bytes"], strict=False):
        off = abs(knee / size - 1)
        yield target(f"knee of {name} at {knee >> 10} KiB, of {size >> 10}: share off", off, most=0.25)
    curves = {name: {p["bytes"]: p["ns"] for p in points} for name, points in section["curves"].items()}
    if "page_4k" in curves:  # a quick measurement has none
        # As many lines as pages: what they cost beyond the same number of lines side by side is translation,
        # as long as the lines lie well inside the second cache however they fall into its sets.
        span = 64 * section["reported"].get("L2", 2**20) // 4
        lines = min(curves["random_2m"], key=lambda size: abs(size - span // 64))
        base = curves["random_2m"][lines]
        steps = {pages: curves[f"page_{pages}"][span] - base for pages in ("4k", "2m")}
        what = f"share of the translation's {steps['4k']:.1f} ns over {span >> 20} MiB that huge pages remove"
        if (left := section["step_left"]) is not None and left > 0.5:
            what += f" (behind them are small pages: {left:.0%} of the first step is left)"
        yield target(what, 1 - steps["2m"] / steps["4k"], least=0.9)


def _repeated(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """How far two whole measurements are apart, at worst."""

    def by_key(found: Mapping[str, Any]) -> dict[Any, float]:
        rows = [from_dict(row) for row in found["peak_units"]["rows"]]
        return {(r.label, r.suite, r.cores, r.detail.get("data")): r.ns for r in rows}

    one, other = by_key(first), by_key(second)
    levels = zip(first["latency"]["levels"][:2], second["latency"]["levels"][:2], strict=True)
    apart = {key: abs(other[key] / value - 1) for key, value in one.items() if key in other}
    latency = [d for (_, suite, _, _), d in apart.items() if suite == "latency"]
    latency += [abs(after["ns"] / before["ns"] - 1) for before, after in levels]
    throughput = [d for (_, suite, _, _), d in apart.items() if suite == "throughput"]
    yield target("two runs differ in latency, median", statistics.median(latency), most=0.03)
    yield target("two runs differ in latency, worst", max(latency), most=0.03)
    yield target("two runs differ in throughput, median", statistics.median(throughput), most=0.05)
    yield target("two runs differ in throughput, worst", max(throughput), most=0.05)


def _refuses(load: float) -> bool:
    """The gate before a measurement, with a made-up load average."""
    look = quiet.Look(load, quiet.Disturbance(0.0, 0.0), ())
    try:
        quiet.insist(0, lambda _: None, looking=lambda: look)
    except Busy:
        return True
    return False


def _torch(section: Mapping[str, Any], options: BenchOptions) -> list[dict[str, Any]]:
    """What torch's products reach of the peaks; empty without torch."""
    try:
        import torch
    except ImportError:
        return []
    torch.set_num_threads(options.threads or describe().usable)
    side = 512 if options.quick else 1024
    rows = []
    for kind, make in (
        ("f32", lambda: torch.randn(side, side)),
        ("bf16", lambda: torch.randn(side, side).bfloat16()),
        ("int8", lambda: torch.randint(-128, 127, (side, side), dtype=torch.int8)),
    ):
        if kind not in section["peaks"]:
            continue
        a, b = make(), make()
        multiply = torch._int_mm if kind == "int8" else torch.matmul
        best = float("inf")
        for _ in range(5 if options.quick else 20):
            start = time.perf_counter()
            multiply(a, b)
            best = min(best, time.perf_counter() - start)
        rate = 2 * side**3 / best
        rows.append(
            {
                "what": f"torch {kind} product {side}",
                "us": best * 1e6,
                "share of peak": rate / section["peaks"][kind]["all"],
            }
        )
    return rows


def _ladder(section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Random and sequential side by side, at powers of two."""
    curves = {name: {p["bytes"]: p["ns"] for p in points} for name, points in section["curves"].items()}
    shown = [
        name
        for name in ("random_2m", "random_4k", "stride_2m", "stride_4k", "page_2m", "page_4k")
        if name in curves
    ]
    sizes = sorted(size for size in curves["random_2m"] if size & (size - 1) == 0)
    return [
        {"what": f"load, {size >> 10} KiB", **{f"{name} ns": curves[name].get(size) for name in shown}}
        for size in sizes
    ]
