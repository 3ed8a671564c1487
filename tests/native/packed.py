"""Checkpoint rows and packed matrices for tests, with what they are worth in numpy.

Nothing here reads packed bytes: expected values come from the formats' definitions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab import _native
from trimtab.formats.ggml_types import GGUF_TYPES, type_number

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

KERNEL_SETS = _native.kernel_sets()
GROUPED = [bits + group + minima for bits in ("q4", "q8") for group in ("", "/16") for minima in ("", "+min")]
FORMATS = [*GROUPED, "int8", "bf16"]
HALVES = {  # where the float16 numbers of a block lie
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip
QUANTIZED = list(HALVES)
HALF_SCALED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"]  # their steps are float16 numbers
K_TYPES = [name for name in QUANTIZED if name.endswith("K")]

ULP = 2.0**-24  # relative error of one float32 rounding

POOL = _native.Pool(1)


def random_rows(
    name: str, rows: int, inputs: int, rng: np.random.Generator, exponents: tuple[int, int] = (-6, 0)
) -> Bytes:
    """Rows of a quantised type: every bit random but the exponents of its float16 numbers. (rows, bytes)"""
    kind = GGUF_TYPES[name]
    blocks = rng.integers(0, 256, (rows * inputs // kind.weights, kind.nbytes), dtype=np.uint8)
    for at in HALVES[name]:
        values = rng.uniform(1, 2, len(blocks)) * 2.0 ** rng.integers(*exponents, len(blocks), endpoint=True)
        values *= rng.choice([-1, 1], len(blocks))
        blocks[:, at : at + 2] = values.astype("<f2")[:, None].view(np.uint8)
    return blocks.reshape(rows, -1)


def float_rows(weights: npt.NDArray[Any]) -> Bytes:
    """(rows, inputs) floats as the bytes of an F32 tensor, (rows, bytes)."""
    return np.ascontiguousarray(weights, "<f4").view(np.uint8)


def dequantized(name: str, rows: Bytes, inputs: int) -> Floats:
    """What the file's rows are worth, (rows, inputs)."""
    values = _native.dequantize(type_number(name), rows.reshape(-1), len(rows) * inputs)
    return np.asarray(values).reshape(len(rows), inputs)


def fill(matrix: Any, name: str, rows: Bytes, row0: int = 0, half: int = 0, **part: Any) -> None:
    """All of the rows, or the part that `order`, `start` and `count` name."""
    chosen = {"order": None, "start": 0, "count": len(rows)} | part
    matrix.fill(POOL, row0, half, type_number(name), rows.reshape(-1), **chosen)


def matrix_of(format: str, weights: npt.NDArray[Any], up: npt.NDArray[Any] | None = None) -> Any:
    """A packed matrix of floats; gated with `weights` as the gate when there is an `up`."""
    matrix = _native.Matrix(format, *weights.shape, gated=up is not None)
    fill(matrix, "F32", float_rows(weights))
    if up is not None:
        fill(matrix, "F32", float_rows(up), half=1)
    return matrix


def unpacked(matrix: Any, kernels: str = "") -> Floats:
    """Every row of a packed matrix as the kernels read it; of a gated one the gate's, then the up's."""
    out = np.empty((matrix.rows * (2 if matrix.gated else 1), matrix.inputs), np.float32)
    matrix.unpack(0, out, _native.choose_kernels(kernels))
    return out


def multiply(
    matrix: Any, x: Floats, kernels: str = "", form: str = "", block_rows: int = 1, pool: Any = POOL
) -> Floats:
    """Native `x @ matrix.T`; (rows, outputs), or the gated product of a gated matrix."""
    out = np.full((len(x), -(-matrix.rows // 32) * 32), np.nan, np.float32)
    chosen = _native.choose_kernels(kernels)
    _native.linear(pool, chosen, matrix, x, out, form or matrix.form[0], block_rows)
    return out[:, : matrix.rows]


def as_bf16(x: npt.NDArray[Any]) -> Floats:
    """Finite floats rounded to bfloat16, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
