"""What switching something on and off costs, from when steps ended and when it was switched.

Phases alternate, off first. Each is held against the mean of the one before and the one after, so a machine
that becomes slower or faster meanwhile does not count; steps during which it was switched are in none. Knows
times only.
"""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise


def on_over_off(ends: Sequence[float], switched: Sequence[float]) -> list[float]:
    """The ratio of median steps, once for each phase that has two neighbours.

    Parameters
    ----------
    ends : when each step ended, which is when the next began
    switched : when each phase began, off first
    """
    steps: dict[int, list[float]] = {}
    for begin, end in pairwise(ends):
        phase = bisect_right(switched, begin) - 1
        if phase >= 0 and phase == bisect_right(switched, end) - 1:
            steps.setdefault(phase, []).append(end - begin)
    found = {phase: statistics.median(each) for phase, each in steps.items()}
    ratios = []
    for phase, own in sorted(found.items()):
        if phase - 1 in found and phase + 1 in found:
            beside = (found[phase - 1] + found[phase + 1]) / 2
            ratios.append(own / beside if phase % 2 else beside / own)
    return ratios
