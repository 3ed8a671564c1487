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

from trimtab.machine.micro.rows import LEAST_CYCLES, Row, quantile, spread

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
    quick : fewer samples; half a second instead of five
    say : told what is being measured

    Returns
    -------
    `rows` (see `Row`), `refused` (measurements that cannot be true), `frequency_hz` on one core and on all,
    and `peaks`: operations a second by type, with the instruction that reaches them
    """
    from trimtab._native import micro

    cpus = processors()
    kernels = [each for each in micro.kernels() if each["suite"] == "units"]
    # Many short passes: the calmest of them decides, and neighbours stay for longer than one.
    passes, samples = (4, 5) if quick else (25, 5)
    rows: list[Row] = []
    clocks = [frequency(cpus)]
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
    clocks.append(frequency(cpus))
    good = [row for row in rows if row.cycles and LEAST_CYCLES <= row.cycles <= MOST_CYCLES]
    return {
        "rows": [row.as_dict() for row in good],
        "refused": [row.as_dict() for row in rows if row not in good],
        # Interruptions make a clock look slower, nothing makes it look faster.
        "frequency_hz": {name: max(clock[name] for clock in clocks) for name in clocks[0]},
        "tick_hz": micro.tick_hz(),
        "peaks": peaks(good),
    }


def frequency(cpus: Sequence[int], samples: int = 50) -> dict[str, float]:
    """Core clock in Hz with one core at work, and the mean of all at once."""
    from trimtab._native import micro

    def of(some: Sequence[int]) -> float:
        timed = micro.time("add_i64", 64, 1, samples, list(some))
        return statistics.fmean(quantile(sorted(hz for _, _, hz in one), 0.9) for one in timed)

    return {"one": of(cpus[:1]), "all": of(cpus)}


def latencies(kernels: Sequence[Kernel], cpu: int, passes: int, samples: int) -> list[Row]:
    """One row an instruction and width, in passes over all of them, so that a busy moment hits one pass."""
    from trimtab._native import micro

    timed: list[Timed] = [[[]] for _ in kernels]
    for _ in range(passes):
        for one, kernel in zip(timed, kernels, strict=True):
            one[0] += micro.time(kernel["name"], kernel["width_bits"], 1, samples, [cpu])
    rows = []
    for kernel, found in zip(kernels, timed, strict=True):
        detail = {"text": kernel["text"]} | ({"instructions": 2} if kernel["pair"] else {})
        rows.append(_row(kernel, "latency", found, CHAIN, detail))
    return rows


def throughputs(kernels: Sequence[Kernel], cpus: Sequence[int], passes: int, samples: int) -> list[Row]:
    """One row an instruction and width, with the best number of chains."""
    from trimtab._native import micro

    wanted: dict[tuple[str, int, bool], list[Kernel]] = {}
    for kernel in kernels:
        if kernel["chains"] > 1:
            wanted.setdefault((kernel["name"], kernel["width_bits"], False), []).append(kernel)
            if kernel["name"] in ZEROS:
                wanted.setdefault((kernel["name"], kernel["width_bits"], True), []).append(kernel)
    timed: dict[tuple[str, int, bool, int], Timed] = {
        (*key, kernel["chains"]): [[] for _ in cpus] for key, several in wanted.items() for kernel in several
    }
    for _ in range(passes):
        for (name, width, zeros, chains), cores in timed.items():
            each = micro.time(name, width, chains, samples, list(cpus), zeros)
            for core, one in zip(cores, each, strict=True):
                core.append(one)
    rows = []
    for (name, width, zeros), several in wanted.items():
        found = [
            _row(
                kernel, "throughput", timed[name, width, zeros, kernel["chains"]], SIDE_BY_SIDE,
                {"text": kernel["text"], "chains": kernel["chains"], "data": "zeros" if zeros else "random"},
            )
            for kernel in several
        ]  # fmt: skip
        rows.append(min(found, key=lambda row: row.ns))
    return rows


Timed = list[list[Sequence[tuple[float, float, float]]]]
"""By core, by pass: samples of (cycles, ns, Hz)."""


def _row(kernel: Kernel, suite: str, timed: Timed, method: str, detail: Mapping[str, Any]) -> Row:
    # Each core has its own calm moments; of several, the means count.
    ns = [spread([[sample[1] for sample in one] for one in core]) for core in timed]
    cycles = [spread([[sample[0] for sample in one] for one in core]) for core in timed]
    calmest, cores = statistics.fmean(each.calmest for each in ns), len(timed)
    done = kernel["ops"] or kernel["bytes"]
    return Row(
        name=kernel["name"], suite=suite, width_bits=kernel["width_bits"], cores=cores, ns=calmest,
        cycles=statistics.fmean(each.calmest for each in cycles),
        rate=cores * done / calmest * 1e9 if suite == "throughput" else 0.0,
        unit=("op/s" if kernel["ops"] else "B/s") if suite == "throughput" else "", n=ns[0].n,
        median_ns=statistics.fmean(each.median for each in ns), iqr_ns=max(each.iqr for each in ns),
        method=method, detail={**detail, "iqr_cycles": max(each.iqr for each in cycles)},
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
