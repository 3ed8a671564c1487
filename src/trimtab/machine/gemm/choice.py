"""Which blocking the predictor finds best, at the corners of a grid of matrix sizes.

A model is loaded in a moment, so nothing is predicted then: the picks are made here, after fitting, for every
class of row counts, and kept as a small table beside the profile (`trimtab.kernels.chooser` reads it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.machine.gemm.blocking import DEFAULT, Blocking, candidates
from trimtab.machine.gemm.collect import Task
from trimtab.machine.gemm.model import GemmModel
from trimtab.machine.gemm.shapes import Shape

SCHEMA = "blocking/1"
SIZES = (256, 512, 1024, 2048, 4096, 12288)
MARGIN = 0.08
"""By how much a blocking must be better than the default, as predicted, to be taken: the predictor's own
median error. With 0.03 whole prefills were slower than by default, for the best of many predicted times is
often one that was predicted too low."""
MANY = 512
"""Rows that stand for the last class, which has no end."""


def best(model: GemmModel, format: str, shape: Shape, threads: int, ways: Sequence[Blocking]) -> Blocking:
    """The fastest of `ways` by prediction; the default, where none is faster by `MARGIN`."""
    seconds = model.seconds([Task(format, threads, shape, way) for way in (DEFAULT, *ways)])
    place = int(seconds.argmin())
    return (DEFAULT, *ways)[place] if seconds[place] < (1 - MARGIN) * seconds[0] else DEFAULT


def table(model: GemmModel, row_classes: Sequence[int], kernels: str) -> dict[str, Any]:
    """Picks for every format and thread count that the predictor knows.

    Parameters
    ----------
    row_classes : most rows of each class but the last
    kernels : name of the set that was measured
    """
    threads: dict[str, dict[str, Any]] = {}
    for format, count in model.ranges:
        kinds = {
            kind: _picks(model, format, count, row_classes, kind == "gated") for kind in ("plain", "gated")
        }
        threads.setdefault(str(count), {})[format] = kinds
    return {"schema": SCHEMA, "kernels": kernels, "threads": threads}


def _picks(
    model: GemmModel, format: str, threads: int, row_classes: Sequence[int], gated: bool
) -> Mapping[str, Any]:
    ways: dict[Blocking, int] = {DEFAULT: 0}
    picks = []
    for m in (*row_classes, MANY):
        for n in SIZES:
            for k in SIZES:
                shape = Shape(m, n, k, gated)
                way = best(
                    model, format, shape, threads, candidates(model.kernels[format], shape, threads)[1:]
                )
                picks.append(ways.setdefault(way, len(ways)))
    return {
        "outputs": list(SIZES), "inputs": list(SIZES), "ways": [list(way) for way in ways],
        "picks": " ".join(map(str, picks)),
    }  # fmt: skip
