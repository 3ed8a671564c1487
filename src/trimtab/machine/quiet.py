"""How undisturbed this machine is: other processes' load and time taken by the hypervisor.

On a shared machine the neighbours decide some figures. They cannot be ordered away, but a measurement can
wait for a moment, and record what it could not wait for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Ticks:
    """Processor time since boot, over the processors this process may use, in clock ticks."""

    busy: int
    idle: int
    steal: int

    @property
    def total(self) -> int:
        return self.busy + self.idle + self.steal


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Shares of the processor time between two moments, 0 to 1."""

    busy: float
    steal: float


def ticks(stat: Path = STAT, allowed: frozenset[int] | None = None) -> Ticks | None:
    """Read the counters; None where the system has none."""
    processors = allowed if allowed is not None else _allowed()
    busy = idle = steal = 0
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        name, *words = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in processors:
            values = [*map(int, words), *[0] * 8][:8]
            user, nice, system, waiting, io, irq, softirq, stolen = values
            busy += user + nice + system + irq + softirq
            idle += waiting + io
            steal += stolen
    return Ticks(busy, idle, steal)


def between(before: Ticks | None, after: Ticks | None) -> Disturbance | None:
    """What happened from `before` to `after`; None where it cannot be told."""
    if before is None or after is None or after.total <= before.total:
        return None
    total = after.total - before.total
    return Disturbance((after.busy - before.busy) / total, (after.steal - before.steal) / total)


def wait(
    patience_seconds: float, *, most_busy: float = 0.1, most_steal: float = 0.05, look_seconds: float = 0.5,
    read: Callable[[], Ticks | None] = ticks, sleep: Callable[[float], None] = time.sleep,
) -> Disturbance | None:  # fmt: skip
    """Sleep until a look of `look_seconds` finds the machine quiet, or patience ends.

    Returns
    -------
    the last look: what the measurement that follows has to live with
    """
    looks = max(1, int(patience_seconds / look_seconds))
    seen: Disturbance | None = None
    for _ in range(looks):
        before = read()
        sleep(look_seconds)
        seen = between(before, read())
        if seen is None or (seen.busy <= most_busy and seen.steal <= most_steal):
            break
    return seen


def _allowed() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))
