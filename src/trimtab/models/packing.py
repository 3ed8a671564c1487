"""Checkpoint tensors into the packed matrices of the native kernels: the native side of `Maker`.

`NativeMaker` repacks once, at load, and lets go of the file's pages as it goes, so that a model is never in
memory twice. `SizingMaker` does the same arithmetic on shapes alone, so that a budget can be checked before a
byte of weights is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab import _native
from trimtab.errors import BadFile, Unsupported
from trimtab.formats.ggml_types import type_number
from trimtab.formats.source import TensorInfo, TensorSource
from trimtab.kernels.native import FormKey
from trimtab.kernels.ops import Rows

FORMATS = ("auto", "bf16", "int8", "q8", "q4/16", "q4", "q4-sym")
# A format's public name -> the kernels', where they differ: minima are what four bits are good with.
_NATIVE = {"q4/16": "q4/16+min", "q4": "q4+min", "q4-sym": "q4"}


class NativeMaker:
    """Repacks checkpoint tensors for the native kernels, once, at load.

    Parameters
    ----------
    source : the checkpoint
    pool : threads to repack with
    format : `auto` keeps each tensor's own precision; the others convert every matrix, to 16, 8, 8.5, 6, 5
        and 4.5 bits a weight: `q4/16` has groups of 16, `q4-sym` groups of 32 without minima
    """

    def __init__(self, source: TensorSource, pool: Any, format: str = "auto") -> None:
        self.source = source
        self.pool = pool
        self.format = format
        self.weight_bytes = 0

    def matrix(self, *parts: Rows, gated: bool = False) -> Any:
        infos = [self.source.info(part.name) for part in parts]
        counts = [_row_count(part, info) for part, info in zip(parts, infos, strict=True)]
        inputs = infos[0].shape[-1]
        if any(len(info.shape) != 2 or info.shape[1] != inputs for info in infos):
            shapes = ", ".join(f"{info.name} {info.shape}" for info in infos)
            raise BadFile(self.source.path, f"these tensors should share their inputs: {shapes}")
        if gated and (len(parts) != 2 or counts[0] != counts[1]):
            raise BadFile(self.source.path, f"gate and up differ in size: {counts}")
        matrix = _native.Matrix(
            matrix_format(infos, self.format), counts[0] if gated else sum(counts), inputs, gated
        )
        row = 0
        for half, (part, info, count) in enumerate(zip(parts, infos, counts, strict=True)):
            matrix.fill(
                self.pool, 0 if gated else row, half if gated else 0, type_number(info.dtype),
                self.source.raw(part.name), part.order, part.start, count,
            )  # fmt: skip
            row += count
            self.source.release(part.name)
        self.weight_bytes += matrix.nbytes
        return matrix

    def vector(self, *parts: Rows, offset: float = 0.0) -> npt.NDArray[np.float32]:
        pieces = []
        for part in parts:
            piece = self.source.dequantized(part.name).reshape(-1)[part.start : part.stop]
            pieces.append(piece if part.order is None else piece[part.order])
        vector = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        return np.ascontiguousarray(vector + np.float32(offset), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class MatrixShape:
    """What a recording needs to know of a matrix: enough to lay out its program without the weights."""

    rows: int
    inputs: int
    form: FormKey
    format: str


class SizingMaker:
    """Counts the bytes `NativeMaker` would pack, without reading a weight."""

    def __init__(self, source: TensorSource, format: str = "auto") -> None:
        self.source = source
        self.format = format
        self.weight_bytes = 0

    def matrix(self, *parts: Rows, gated: bool = False) -> Any:
        infos = [self.source.info(part.name) for part in parts]
        counts = [_row_count(part, info) for part, info in zip(parts, infos, strict=True)]
        format = matrix_format(infos, self.format)
        rows, inputs = counts[0] if gated else sum(counts), infos[0].shape[-1]
        self.weight_bytes += _native.matrix_bytes(format, rows, inputs, gated)
        return MatrixShape(rows, inputs, _native.format_form(format), format)

    def vector(self, *parts: Rows, offset: float = 0.0) -> npt.NDArray[np.float32]:
        return np.zeros(0, np.float32)


def matrix_format(infos: list[TensorInfo], format: str) -> str:
    """The packed format for a stack of tensors: the one asked for, or the narrowest that loses nothing."""
    if format == "auto":
        natural: str = _native.common_format([_native.natural_format(type_number(i.dtype)) for i in infos])
        return natural
    if format not in FORMATS:
        raise Unsupported(f"no weight format `{format}`", f"choose one of {', '.join(FORMATS)}", "format")
    return _NATIVE.get(format, format)


def _row_count(part: Rows, info: TensorInfo) -> int:
    stop = info.shape[0] if part.stop is None else part.stop
    return stop - part.start
