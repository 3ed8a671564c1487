"""Waits for moments in which a small request takes its usual least time: idle cores, on a shared machine.

Neighbours take memory bandwidth without any trace in this system's counters, for seconds at a time. A probe
request sees that. Whoever times something waits for calm before it, and the waiting is counted apart.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

Probe = Callable[[], float]
WITHIN = 1.10
PAUSE_S = 0.15


class Calm:
    """Remembers the best probe so far and waits for one like it.

    Parameters
    ----------
    probe : seconds of a small piece of the same kind of work
    patience_s : all waiting together; when it is used up, `wait` only looks
    """

    def __init__(self, probe: Probe, patience_s: float) -> None:
        self._probe, self._left_s = probe, patience_s
        self._best = min(probe() for _ in range(10))
        self.waited_s, self.looks, self.restless = 0.0, 0, 0

    def wait(self) -> bool:
        """True when the last probe was within a tenth of the best."""
        start = time.perf_counter()
        while True:
            seconds = self._probe()
            self._best = min(self._best, seconds)
            self.looks += 1
            if seconds <= WITHIN * self._best or self.waited_s + time.perf_counter() - start > self._left_s:
                break
            time.sleep(PAUSE_S)
        self.waited_s += time.perf_counter() - start
        calm = seconds <= WITHIN * self._best
        self.restless += not calm
        return calm


def decoding(run: Callable[[list[list[int]], int], tuple[float, float] | None], seed: int) -> Probe:
    """A probe of about 40 ms: twelve tokens after a prompt of twenty."""
    draw = random.Random(seed)

    def probe() -> float:
        start = time.perf_counter()
        run([draw.choices(range(300, 10_000), k=20)], 12)
        return time.perf_counter() - start

    return probe
