"""Microbenchmarks: what single instructions, memory levels, cores and system calls cost on this machine.

A ruler and no judge: it says what a unit can do at most and at what cost, so that rooflines and predictors
divide by measured numbers. `units` times instructions, `memory` and `ladder` dependent loads, `sync` what
cores and system cost, `verify` looks whether the machine is still the same, `gpu` has the same rows of a
GPU. Method: arXiv 2402.13499.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trimtab.errors import UsageError

SUITES = ("latency", "throughput", "memory", "sync", "os")
SECTIONS = {"peak_units": ("latency", "throughput"), "latency": ("memory",), "sync": ("sync", "os")}
"""Sections of the profile and the suites that make each whole."""


def sections_of(suite: str, *, gpu: bool = False) -> list[str]:
    """Sections that a suite makes whole.

    Raises
    ------
    UsageError : no such suite, or part of a GPU's, which come together
    """
    if suite != "all" and suite not in SUITES:
        raise UsageError(f"--suite {suite}: no such suite", f"there is all, {', '.join(SUITES)}", "suite")
    if gpu:
        if suite != "all":
            raise UsageError(f"--suite {suite}: a GPU's suites come together", "leave it out", "suite")
        return ["gpu_units"]
    return [name for name, suites in SECTIONS.items() if suite == "all" or suites == (suite,)]


def measure(
    suite: str = "all", *, quick: bool = False, say: Callable[[str], None] = lambda _: None
) -> dict[str, dict[str, Any]]:
    """Measure this processor.

    Parameters
    ----------
    suite : `all`, or one of `SUITES`
    quick : about three seconds instead of one minute
    say : told what is being measured

    Returns
    -------
    section of the profile -> its data: `peak_units` (suites latency and throughput), `latency` (memory) and
    `sync` (sync and os); a section is there when one of its suites was asked for

    Raises
    ------
    UsageError : no such suite
    """
    sections_of(suite)  # refuses names it does not know
    wanted = SUITES if suite == "all" else (suite,)
    from trimtab.machine.micro import memory, sync, units

    found: dict[str, dict[str, Any]] = {}
    if "latency" in wanted or "throughput" in wanted:
        found["peak_units"] = units.measure(
            latency="latency" in wanted, throughput="throughput" in wanted, quick=quick, say=say
        )
    if "memory" in wanted:
        found["latency"] = memory.measure(quick=quick, say=say)
    if "sync" in wanted or "os" in wanted:
        found["sync"] = sync.measure(sync="sync" in wanted, system="os" in wanted, quick=quick, say=say)
    return found
