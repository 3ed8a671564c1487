"""What a predictor sees of a product: its size, how the blocking divides it, and where its parts fit.

Every figure is known before anything runs. The order of `NAMES` is the order of the columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trimtab.machine.gemm.blocking import DEFAULT, GROUP, STRIP_BYTES, TILE, Blocking, Kernel, units_of
from trimtab.machine.gemm.roof import BITS, Roof, activation_bytes, base_of, weight_bytes
from trimtab.machine.gemm.shapes import Shape

NAMES = (
    "log2_m", "log2_n", "log2_k", "gated", "bits", "group_16", "minima", "grouped", "threads",
    "rows", "tiles", "chosen", "log2_strip", "log2_grain", "waste_m", "waste_n", "waste_k",
    "log2_blocks", "log2_units_a_thread", "imbalance", "log2_grains", "log2_strips", "log2_passes",
    "log2_weights", "log2_activations", "log2_results", "log2_panel_l1", "log2_strip_l2", "log2_rows_l2",
    "log2_set_l3", "log2_compute_share", "log2_dispatch_share",
)  # fmt: skip


def features(kernel: Kernel, shape: Shape, blocking: Blocking, roof: Roof) -> npt.NDArray[np.float64]:
    """One row of figures, in the order of `NAMES`."""
    format, threads = kernel.format, roof.threads
    base = base_of(format)
    m, n, k, gated = shape
    rows, tiles = kernel.rows_of(blocking, m), kernel.tiles_of(blocking, m)
    grain, units = kernel.grain_of(blocking, shape, threads), units_of(shape)
    blocks = math.ceil(m / rows)
    grains = math.ceil(units / grain)
    weights = weight_bytes(format, shape)
    unit_bytes = weights / units
    strip = (
        min((blocking.strip_bytes or STRIP_BYTES) + unit_bytes, grain * unit_bytes)
        if blocks > 1
        else (grain * unit_bytes)
    )
    strips = max(1.0, weights / max(strip, unit_bytes))
    element = activation_bytes(format)
    activations, results = m * k * element, 4.0 * m * n
    # A strip meets every block of activations, tile by tile unless tiles are taken together.
    together = max(1, tiles) * TILE / (n if not gated else 2 * n)
    passes = 1 / min(1.0, together) if blocks == 1 else strips
    compute, memory, barrier = roof.parts(format, shape)
    l1, l2, l3 = roof.caches
    return np.array([
        math.log2(m), math.log2(n), math.log2(k), gated, BITS[base], "/16" in format, "+min" in format,
        base in ("q4", "q8"), threads,
        rows, tiles, blocking != DEFAULT, math.log2(strip), math.log2(grain),
        blocks * rows / m - 1, math.ceil(n / TILE) * TILE / n - 1, math.ceil(k / GROUP) * GROUP / k - 1,
        math.log2(blocks), math.log2(units / threads), math.ceil(grains / threads) * threads / grains,
        math.log2(grains), math.log2(strips), math.log2(passes),
        math.log2(weights), math.log2(activations), math.log2(results),
        math.log2((unit_bytes + rows * k * element) * threads / l1), math.log2(strip * threads / l2),
        math.log2(activations * threads / l2), math.log2((activations + results + weights) / l3),
        math.log2(compute / memory), math.log2(barrier / max(compute, memory)),
    ])  # fmt: skip


PLAIN_NAMES = ("m", "n", "k", "rows", "tiles", "strip", "ops", "bytes", "intensity")


def plain_features(kernel: Kernel, shape: Shape, blocking: Blocking) -> npt.NDArray[np.float64]:
    """The nine figures of arXiv 2411.16954: sizes, three of the blocking, work, bytes, quotient."""
    moved = weight_bytes(kernel.format, shape) + shape.m * (
        shape.k * activation_bytes(kernel.format) + 4 * shape.n
    )
    return np.array([
        shape.m, shape.n * (2 if shape.gated else 1), shape.k, kernel.rows_of(blocking, shape.m),
        blocking.tiles, blocking.strip_bytes, shape.ops, moved, shape.ops / moved,
    ])  # fmt: skip


def matrix(rows: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Rows of figures as one array; (0, features) of none."""
    return np.array(rows) if rows else np.empty((0, len(NAMES)))
