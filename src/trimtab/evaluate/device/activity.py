"""What a process and its children use over time: memory, processor time, and time that was stolen meanwhile.

Read from /proc, twice a second, in a thread that wakes only for that. It knows no engine.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trimtab.machine import probe, quiet

PERIOD_S = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. Resident bytes count file-backed pages too; `file_bytes` are those alone."""

    time_s: float
    resident_bytes: int
    file_bytes: int
    core_seconds: float
    steal_ticks: int
    total_ticks: int


class Watcher:
    """Looks at a process until stopped.

    Parameters
    ----------
    process : its number; all that it starts count too
    clock : seconds, the one that events are stamped with
    """

    def __init__(
        self, process: int, clock: Callable[[], float] = time.monotonic, period_s: float = PERIOD_S
    ) -> None:
        self.process, self._clock, self._period_s = process, clock, period_s
        self.samples: list[Sample] = []
        self.peak_bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> Watcher:
        self.look()
        self._thread.start()
        return self

    def look(self) -> None:
        """One sample now."""
        members = probe.family(self.process)
        ticks = quiet.ticks()
        sizes = [_sizes(member) for member in members]
        resident = sum(each.get("VmRSS", 0) for each in sizes)
        if not resident:
            return  # it has ended
        self.peak_bytes = max(self.peak_bytes, sum(each.get("VmHWM", 0) for each in sizes))
        self.samples.append(
            Sample(
                self._clock(),
                resident,
                sum(each.get("RssFile", 0) for each in sizes),
                core_seconds(self.process, members),
                0 if ticks is None else ticks.steal,
                0 if ticks is None else ticks.total,
            )
        )

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def peak_file_bytes(self) -> int:
        return max((sample.file_bytes for sample in self.samples), default=0)

    def _run(self) -> None:
        while not self._end.wait(self._period_s):
            self.look()


def _sizes(process: int) -> dict[str, int]:
    """Bytes by the kernel's names; empty when the process is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    pairs = (line.split() for line in status.splitlines() if line.startswith(("VmRSS", "VmHWM", "RssFile")))
    return {name.rstrip(":"): int(value) * 1024 for name, value, *_ in pairs}


def core_seconds(process: int, members: list[int] | None = None) -> float:
    """Processor time of a process and all it has started, ended children included; 0 when it is gone."""
    ticks = 0
    for member in members if members is not None else probe.family(process):
        try:
            stat = Path(f"/proc/{member}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        # The name in parentheses may hold spaces; counting starts behind it.
        fields = stat.rpartition(")")[2].split()
        ticks += sum(int(fields[i]) for i in (11, 12, 13, 14))  # own user, own system, children's both
    return ticks / os.sysconf("SC_CLK_TCK")
