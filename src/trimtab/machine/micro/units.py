"""Latency and throughput of single instructions, on one core and on all.

A latency is a chain of steps of which each needs the one before; a throughput is the best over numbers of
chains that run side by side. Cycles come from a chain of additions beside each sample, so no performance
counter is needed, and a clock that moves does not matter. Method: arXiv 2402.13499, on a processor.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimtab.machine.micro.rows import LEAST_CYCLES, Row, spread

Say = Callable[[str], None]
Kernel = Mapping[str, Any]

CHAIN = "dependent chain between two readings of the time stamp counter; cycles by a chain of additions"
SIDE_BY_SIDE = "independent chains, the best number of them; cycles by a chain of additions"
ZEROS = ("fma_f32", "fma_f64", "dpbf16", "dpbusd")
"""Also measured on zeros: what is multiplied decides how much power it takes."""
PEAKS = {
    "int8": ("dpbusd", "dp8_maddubs"), "bf16": ("dpbf16",), "f32": ("fma_f32",), "f64": ("fma_f64",),
}  # fmt: skip
MOST_CYCLES = 200.0


def processors() -> list[int]:
    """Numbers of the processors this process may use; -1 where they cannot be told."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [-1]


def measure(
    *, latency: bool = True, throughput: bool = True, quick: bool = False, say: Say
) -> dict[str, Any]:
    """What the instructions cost: the section `peak_units`.

    Parameters
    ----------
    quick : fewer samples; half a second instead of two
    say : told what is being measured

    Returns
    -------
    `rows` (see `Row`), `refused` (measurements that cannot be true), `frequency_hz` on one core and on all,
    and `peaks`: operations a second by type, with the instruction that reaches them
    """
    from trimtab._native import micro

    cpus = processors()
    kernels = [each for each in micro.kernels() if each["suite"] == "units"]
    passes, samples = (3, 11) if quick else (5, 21)
    rows: list[Row] = []
    if latency:
        say(f"latency of {len({(k['name'], k['width_bits']) for k in kernels})} instructions")
        rows += latencies(
            [k for k in kernels if k["chains"] == 1 and not k["free"]], cpus[0], passes, samples
        )
    if throughput:
        say(f"throughput on 1 of {len(cpus)} cores")
        rows += throughputs(kernels, cpus[:1], passes, samples)
        if len(cpus) > 1:
            say(f"throughput on all {len(cpus)} cores")
            rows += throughputs(kernels, cpus, passes, samples)
    good = [row for row in rows if row.cycles and LEAST_CYCLES <= row.cycles <= MOST_CYCLES]
    return {
        "rows": [row.as_dict() for row in good],
        "refused": [row.as_dict() for row in rows if row not in good],
        "frequency_hz": frequency(cpus, samples),
        "tick_hz": micro.tick_hz(),
        "peaks": peaks(good),
    }


def frequency(cpus: Sequence[int], samples: int) -> dict[str, float]:
    """Core clock in Hz with one core at work, and the mean of all at once."""
    from trimtab._native import micro

    def of(some: Sequence[int]) -> float:
        timed = micro.time("add_i64", 64, 1, 4 * samples, list(some))
        return statistics.fmean(statistics.median(hz for _, _, hz in one) for one in timed)

    return {"one": of(cpus[:1]), "all": of(cpus)}


def latencies(kernels: Sequence[Kernel], cpu: int, passes: int, samples: int) -> list[Row]:
    """One row an instruction and width, in passes over all of them, so that a busy moment hits one pass."""
    from trimtab._native import micro

    timed: list[list[Any]] = [[] for _ in kernels]
    for _ in range(passes):
        for one, kernel in zip(timed, kernels, strict=True):
            one.append(micro.time(kernel["name"], kernel["width_bits"], 1, samples, [cpu])[0])
    rows = []
    for kernel, found in zip(kernels, timed, strict=True):
        detail = {"text": kernel["text"]} | ({"instructions": 2} if kernel["pair"] else {})
        rows.append(_row(kernel, "latency", 1, found, CHAIN, detail))
    return rows


def throughputs(kernels: Sequence[Kernel], cpus: Sequence[int], passes: int, samples: int) -> list[Row]:
    """One row an instruction and width with the best number of chains; the samples are the cores' means."""
    from trimtab._native import micro

    wanted: dict[tuple[str, int, bool], list[Kernel]] = {}
    for kernel in kernels:
        if kernel["chains"] > 1:
            wanted.setdefault((kernel["name"], kernel["width_bits"], False), []).append(kernel)
            if kernel["name"] in ZEROS:
                wanted.setdefault((kernel["name"], kernel["width_bits"], True), []).append(kernel)
    timed: dict[tuple[str, int, bool], dict[int, list[Any]]] = {key: {} for key in wanted}
    for _ in range(passes):
        for (name, width, zeros), several in wanted.items():
            for kernel in several:
                chains = kernel["chains"]
                each = micro.time(name, width, chains, samples, list(cpus), zeros)
                merged = [
                    tuple(statistics.fmean(part) for part in zip(*at, strict=True))
                    for at in zip(*each, strict=True)
                ]
                timed[name, width, zeros].setdefault(chains, []).append(merged)
    rows = []
    for (name, width, zeros), several in wanted.items():
        found = timed[name, width, zeros]
        chains = min(found, key=lambda n: spread([[s[0] for s in one] for one in found[n]]).calmest)
        kernel = next(each for each in several if each["chains"] == chains)
        detail = {"text": kernel["text"], "chains": chains, "data": "zeros" if zeros else "random"}
        rows.append(_row(kernel, "throughput", len(cpus), found[chains], SIDE_BY_SIDE, detail))
    return rows


def _row(
    kernel: Kernel, suite: str, cores: int, passes: Sequence[Any], method: str, detail: Mapping[str, Any]
) -> Row:
    ns = spread([[sample[1] for sample in one] for one in passes])
    cycles = spread([[sample[0] for sample in one] for one in passes])
    done = kernel["ops"] or kernel["bytes"]
    return Row(
        name=kernel["name"], suite=suite, width_bits=kernel["width_bits"], cores=cores, ns=ns.calmest,
        cycles=cycles.calmest, rate=cores * done / ns.calmest * 1e9 if suite == "throughput" else 0.0,
        unit=("op/s" if kernel["ops"] else "B/s") if suite == "throughput" else "", n=ns.n,
        median_ns=ns.median, iqr_ns=ns.iqr, method=method, detail={**detail, "iqr_cycles": cycles.iqr},
    )  # fmt: skip


def peaks(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The highest rate by number type, on one core and on all."""
    found: dict[str, dict[str, Any]] = {}
    for kind, names in PEAKS.items():
        for row in rows:
            if row.suite != "throughput" or row.name not in names or row.detail.get("data") == "zeros":
                continue
            entry = found.setdefault(kind, {"one": 0.0, "all": 0.0, "kind": ""})
            if row.cores == 1 and row.rate > entry["one"]:
                entry["one"], entry["kind"] = row.rate, row.label
            entry["all"] = max(entry["all"], row.rate)
    return found
