"""Arithmetic peaks: of the registers, and of matrix products by shape class through the engine's own kernels.

A register peak is what no program can pass. A product reaches less of it the fewer rows it has, because each
weight is then loaded for less work; the classes say what the kernels make of that with weights in the cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from trimtab.machine.probe import describe
from trimtab.machine.roofline import REGISTER, class_of
from trimtab.machine.sampling import in_turns, summary

OUTPUTS, INPUTS = 1024, 576
"""One core's share of these weights fits into its second cache in every format but the widest."""
ROWS = {"one row": 1, "few rows": 8, "many rows": 128}
# Weight format and activation form of the products that use each kind of arithmetic.
PRODUCTS = {
    "int8": ("int8", "token"),
    "q4": ("q4", "grouped"),
    "bf16": ("bf16", "half"),
    "float32": ("bf16", "wide"),
}


def measure(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The section `peak` of the profile.

    Returns
    -------
    `rows`: unit, class, threads and kind (instruction or kernel set), with the median of operations a second,
    its interquartile range and the number of runs; a multiply-add is two operations. `shape` of the products
    """
    seconds, rounds = (0.004, 3) if quick else (0.03, 9)
    cases: dict[tuple[str, str, int], Callable[[], float]] = {}
    kinds: dict[tuple[str, str, int], str] = {}
    keep: list[Any] = []
    for threads in thread_counts():
        _registers(threads, seconds, cases, kinds)
        _products(threads, seconds, cases, kinds, keep)
    say(f"{len(cases)} cells, {rounds} times in turns")
    found = in_turns(cases, rounds)
    rows = [
        {"unit": unit, "class": kind, "threads": threads, "kind": kinds[unit, kind, threads]}
        | summary(values)
        for (unit, kind, threads), values in found.items()
    ]
    return {
        "unit": "operations/s",
        "rows": rows,
        "shape": {"outputs": OUTPUTS, "inputs": INPUTS, "rows": ROWS},
    }


def thread_counts() -> list[int]:
    """1, 2, 4 ... and as many as this process may use."""
    usable = describe().usable
    return sorted({usable, *(2**power for power in range(usable.bit_length()) if 2**power <= usable)})


def _registers(
    threads: int,
    seconds: float,
    cases: dict[tuple[str, str, int], Callable[[], float]],
    kinds: dict[tuple[str, str, int], str],
) -> None:
    from trimtab import _native

    peaks = {"int8": _native.int8_peak, "float32": _native.float32_peak}
    # Where there are no instructions for bf16 it has no peak of its own.
    if "bf16" in _native.float_peak(1, 0.0)[1]:
        peaks["bf16"] = _native.float_peak
    for unit, peak in peaks.items():
        key = (unit, REGISTER, threads)
        cases[key] = lambda peak=peak: float(peak(threads, seconds)[0])  # type: ignore[misc]
        kinds[key] = peak(threads, 0.0)[1]


def _products(
    threads: int,
    seconds: float,
    cases: dict[tuple[str, str, int], Callable[[], float]],
    kinds: dict[tuple[str, str, int], str],
    keep: list[Any],
) -> None:
    """Cases of the engine's matrix products; `keep` holds what they point at."""
    import numpy as np

    from trimtab import _native

    pool, kernels = _native.Pool(threads), _native.choose_kernels()
    chance = np.random.default_rng(0)
    weights = chance.standard_normal((OUTPUTS, INPUTS), dtype=np.float32)
    keep += [pool, kernels]
    for unit, (format, form) in PRODUCTS.items():
        matrix = _native.Matrix(format, OUTPUTS, INPUTS)
        matrix.fill(pool, 0, 0, 0, weights.view(np.uint8).reshape(-1), None, 0, OUTPUTS)
        keep.append(matrix)
        for name, rows in ROWS.items():
            x = chance.standard_normal((rows, INPUTS), dtype=np.float32)
            out = np.empty((rows, OUTPUTS), np.float32)
            most = kernels.max_rows if rows <= kernels.max_rows else kernels.many_rows
            blocks = -(-rows // most)
            one = partial(_native.linear, pool, kernels, matrix, x, out, form, -(-rows // blocks))
            cases[unit, name, threads] = partial(_rate, one, 2.0 * rows * OUTPUTS * INPUTS, seconds)
            kinds[unit, name, threads] = f"{kernels.name} {format}"
            assert class_of(rows) == name


def _rate(product: Callable[[int], object], ops: float, seconds: float) -> float:
    """Operations a second of as many products as fill `seconds`."""
    repeats, took = 1, 0.0
    while True:
        start = time.perf_counter()
        product(repeats)
        took = time.perf_counter() - start
        if took >= seconds:
            return ops * repeats / took
        repeats = max(2 * repeats, int(1.1 * repeats * seconds / max(took, 1e-7)))
