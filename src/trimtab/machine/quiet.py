"""How undisturbed this machine is: other processes' load and time taken by the hypervisor.

On a shared machine the neighbours decide some figures. They cannot be ordered away, but a measurement can
wait for a moment, and record what it could not wait for. What must not be measured on a busy machine at all
asks `insist`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import Busy

STAT = Path("/proc/stat")
MOST_BUSY, MOST_STEAL, MOST_LOAD = 0.1, 0.05, 0.5
MOST_LOAD_SHARE = 0.05
"""Of many processors the load average may be this share, if that is more than `MOST_LOAD`."""


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
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in processors:
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
    patience_seconds: float, *, most_busy: float = MOST_BUSY, most_steal: float = MOST_STEAL,
    look_seconds: float = 0.5, read: Callable[[], Ticks | None] = ticks,
    sleep: Callable[[float], None] = time.sleep,
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


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the machine found; None where the system does not tell.

    Parameters
    ----------
    load : the system's load average over the last minute
    shares : what the processors did during the look
    busiest : names and numbers of the processes that took most, and their share of one processor
    """

    load: float | None
    shares: Disturbance | None
    busiest: tuple[str, ...] = ()

    def complaints(self, most_load: float | None = None) -> list[str]:
        """What is wrong, in words; empty on a quiet machine."""
        most = load_limit() if most_load is None else most_load
        found = []
        if self.load is not None and self.load > most:
            found.append(f"the load average is {self.load:.2f}, at most {most:.2f} will do")
        if self.shares is not None and self.shares.busy > MOST_BUSY:
            found.append(
                f"other work takes {self.shares.busy:.0%} of the processors, at most {MOST_BUSY:.0%} will do"
            )
        if self.shares is not None and self.shares.steal > MOST_STEAL:
            found.append(
                f"the hypervisor takes {self.shares.steal:.0%} of the time, at most {MOST_STEAL:.0%} will do"
            )
        return found


def load_limit() -> float:
    """The highest load average at which a machine counts as quiet."""
    return max(MOST_LOAD, MOST_LOAD_SHARE * len(_allowed()))


def look(seconds: float = 1.0, sleep: Callable[[float], None] = time.sleep) -> Look:
    """Watch the machine for a moment while this process sleeps."""
    before, processes = ticks(), _process_ticks()
    sleep(seconds)
    return Look(_load(), between(before, ticks()), _busiest(processes, _process_ticks(), seconds))


def insist(
    patience_s: float, say: Callable[[str], None], *, looking: Callable[[], Look] = look,
    clock: Callable[[], float] = time.monotonic,
) -> Look:  # fmt: skip
    """Wait for a quiet machine, and refuse to go on without one.

    Parameters
    ----------
    patience_s : longest wait; 0 looks once

    Raises
    ------
    Busy : it stayed busy; says how, and which processes take most
    """
    end, told = clock() + patience_s, ""
    while wrong := (seen := looking()).complaints():
        if clock() >= end:
            who = f" (most by {', '.join(seen.busiest)})" if seen.busiest else ""
            raise Busy(
                f"this machine is too busy to be measured: {'; '.join(wrong)}{who}",
                "end what runs, or wait longer with --patience SECONDS; --force measures all the same, and "
                "what was disturbed is then refused by those who need it",
            )
        if wrong[0] != told:
            say(f"waiting for a quiet machine: {wrong[0]}")
            told = wrong[0]
    return seen


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _process_ticks() -> dict[int, tuple[str, int]]:
    """number -> (name, clock ticks used so far) of every process that can be seen, but this one."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = path.read_text(encoding="utf-8", errors="replace").split("(", 1)[1].rsplit(")", 1)
        except (OSError, IndexError, ValueError):
            continue
        words = rest.split()
        if len(words) > 12 and int(path.parent.name) != os.getpid():
            found[int(path.parent.name)] = (name, int(words[11]) + int(words[12]))
    return found


def _busiest(
    before: dict[int, tuple[str, int]], after: dict[int, tuple[str, int]], seconds: float, most: int = 3
) -> tuple[str, ...]:
    per_second = os.sysconf("SC_CLK_TCK")
    used = [
        ((ticks_now - before.get(number, (name, 0))[1]) / per_second / seconds, name, number)
        for number, (name, ticks_now) in after.items()
    ]
    loud = sorted((one for one in used if one[0] > 0.05), reverse=True)[:most]
    return tuple(f"{name} {number}: {share:.0%}" for share, name, number in loud)


def _allowed() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))
