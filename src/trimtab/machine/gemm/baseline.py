"""The same products by a library: torch with oneDNN, where torch is installed.

Integers go through `torch._int_mm`, whose result still lacks its scales; bf16 through `linear` on bf16
activations. Weights come in turn from copies that no cache holds, as they do for the kernels here.
"""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

from trimtab.machine.gemm.blocking import DEFAULT
from trimtab.machine.gemm.collect import LOOP_S, VISITS, Row, Say
from trimtab.machine.gemm.shapes import Shape
from trimtab.machine.sampling import summary

FORMATS = ("int8", "bf16")
COLD_BYTES = 128 * 2**20
FEWEST_ROWS = 32
"""Below, `_int_mm` refuses or pads."""


def products(shapes: Sequence[Shape]) -> list[Shape]:
    """Those of `shapes` that a library is asked for: plain ones with enough rows, a dozen evenly picked."""
    fit = sorted({shape for shape in shapes if not shape.gated and FEWEST_ROWS <= shape.m <= 512})
    fit = [shape for shape in fit if shape.n * shape.k <= 2**24]
    return fit[:: max(1, len(fit) // 12)]


def rows(shapes: Sequence[Shape], threads: int, say: Say) -> list[Row]:
    """Timings of the products by torch; none without it."""
    if importlib.util.find_spec("torch") is None:
        say("torch is not installed: no library is timed beside the kernels")
        return []
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            return [_row(torch, format, threads, shape) for format in FORMATS for shape in shapes]
    finally:
        torch.set_num_threads(before)


def _row(torch: Any, format: str, threads: int, shape: Shape) -> Row:
    m, n, k, _ = shape
    kind = torch.int8 if format == "int8" else torch.bfloat16
    copies = max(1, math.ceil(COLD_BYTES / (n * k * kind.itemsize)))
    x = torch.ones(m, k, dtype=kind)
    weights = [torch.ones(n, k, dtype=kind) for _ in range(copies)]

    def product(weight: Any) -> object:
        if format == "int8":
            return torch._int_mm(x, weight.t())
        return torch.nn.functional.linear(x, weight)

    place = 0

    def loop(calls: int) -> float:
        nonlocal place
        start = time.perf_counter()
        for _ in range(calls):
            product(weights[place % copies])
            place += 1
        return (time.perf_counter() - start) / calls

    once = min(loop(2), loop(2))
    seconds = [loop(max(1, math.ceil(LOOP_S / once))) for _ in range(VISITS)]
    told = summary(seconds)
    return Row(
        format, threads, shape, DEFAULT, statistics.median(seconds), float(told["iqr"]), VISITS,
        os.getloadavg()[0], "torch",
    )  # fmt: skip
