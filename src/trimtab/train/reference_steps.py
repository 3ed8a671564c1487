"""What operators take in a step beyond their bounds, told by steps of a small reference model.

`costs` measures each kind of operator alone, at its best. In a step it finds its operands in farther caches,
its results go where nothing was lately, and Python and autograd come before it. So steps of a model that
exists nowhere are dissected, with each technique; the factor between what a kind of operator took and its
bound, and what was left over for each operator, are kept beside the rates.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from typing import Any

from trimtab.train import costs
from trimtab.train.cell import Cell
from trimtab.train.costs import StepCosts, kind_of
from trimtab.train.shapes import llama_shape
from trimtab.train.trainer import Techniques

TECHNIQUES = ("", "F", "R", "L", "QL", "bf16", "offload")
_LEAST_SECONDS = 1e-3  # of a kind of operator in all steps together, to say something of it


def measure(quick: bool = False, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure `StepCosts` with its factors, under a minute; the profile's section `train`."""
    rates = StepCosts.of(costs.measure(quick, say))
    took: dict[str, float] = defaultdict(float)
    bound: dict[str, float] = defaultdict(float)
    left, operators = 0.0, 0
    for codes in TECHNIQUES[:1] if quick else TECHNIQUES:
        say(f"steps of a reference model, {codes or 'plain'}")
        shape = llama_shape(2 if quick else 4, 128 if quick else 384, 512 if quick else 8192)
        with closing(Cell(shape, None, Techniques.of(codes), length=128)) as cell:
            cell.warm()
            plain, dissections = [], []
            for _ in range(1 if quick else 5):
                plain.append(cell.step_seconds())
                dissections.append(cell.dissection())
            step = statistics.median(plain)
            middle = sorted(dissections, key=lambda each: each.step_seconds)[len(dissections) // 2]
            trace = cell.trace()
        # The recorder stretches a step of many small operators; what it says is shares.
        stretch = step / middle.step_seconds
        known = {kind_of(each.name) for each in trace.operators}
        left += step
        for row in middle.rows:
            if (kind := kind_of(row.operator)) in known:
                took[kind] += row.seconds * stretch
                left -= row.seconds * stretch
        for each in trace.operators:
            bound[kind_of(each.name)] += rates.bound_seconds(each)
        operators += len(trace.operators)
    factors = {
        kind: took[kind] / bound[kind] for kind in took if took[kind] > _LEAST_SECONDS and bound[kind] > 0
    }
    return rates.corrected(factors, max(left, 0.0) / max(operators, 1)).as_dict()
