"""Repeated measurements: taken in turns, and kept with their spread.

A shared machine drifts while it is measured. So the repetitions of different things are interleaved, each
round in another order, and what is kept of each is its median, the width of its middle half and the number of
runs. Knows nothing of what is measured.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def summary(values: Sequence[float]) -> dict[str, float | int]:
    """What a profile keeps of repeated runs: `median`, `iqr`, `n`.

    The interquartile range is that of the values themselves, interpolated; of two or three it is what their
    order allows, of one it is 0.
    """
    if not values:
        raise ValueError("no values")
    if len(values) == 1:
        return {"median": float(values[0]), "iqr": 0.0, "n": 1}
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": float(statistics.median(values)), "iqr": float(high - low), "n": len(values)}


def in_turns(
    cases: Mapping[Name, Callable[[], float]], rounds: int, *, warm: bool = True, seed: int = 0
) -> dict[Name, list[float]]:
    """Run every case once a round, in an order that changes from round to round.

    Parameters
    ----------
    cases : name -> one run, which returns its figure
    warm : run each case once before, for nothing

    Returns
    -------
    the figures of each case, oldest first
    """
    found: dict[Name, list[float]] = {name: [] for name in cases}
    order, chance = list(cases), random.Random(seed)
    if warm:
        for run in cases.values():
            run()
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            found[name].append(cases[name]())
    return found
