"""This machine under the limits of a smaller one, and a recorded throttle curve replayed as a quota.

The limits are emulated: there are no small cores here, no shared memory controller, no heat. So the report
says `emulated limit`, and `simulated throttle` for a curve, and names no device that was not there.
"""

from __future__ import annotations

import csv
import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from trimtab.errors import BadFile
from trimtab.evaluate.device.chat import ChatSession
from trimtab.evaluate.device.driver import Ending, Event, Launch
from trimtab.evaluate.device.groups import Group, ResourceLimits, disk_of, make_group
from trimtab.evaluate.device.local import Local
from trimtab.evaluate.device.plan import Device

_MOST_ROWS = 1_000_000


class Limited(Local):
    """`Local` inside a control group, or under resource limits where none can be made."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._group: Group | ResourceLimits | None = None
        self._curve = [] if device.throttle is None else read_curve(device.throttle)
        self._throttled: list[tuple[float, float]] = []
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._peak: int | None = None
        self.emulation = "emulated limit" + ("; simulated throttle" if self._curve else "")

    def prepare(self) -> None:
        super().prepare()
        self._end.clear()
        self._peak = None
        self._group = make_group(f"trimtab-{os.getpid()}-{time.monotonic_ns()}")
        self.emulation = f"emulated limit ({self._group.kind})"
        if self._curve:
            self.emulation += "; simulated throttle"

    def start(self, launch: Launch) -> ChatSession:
        group = self._group
        if group is None:
            raise RuntimeError("prepare() comes before start()")
        limits = self.device.limits
        group.apply(limits, disk_of(launch.model) if limits.read_bytes_per_s is not None else None)
        return super().start(launch)

    def events(self) -> Sequence[Event]:
        """The steps of the simulated throttle, each until the next one."""
        ends = [moment for moment, _ in self._throttled[1:]] + [time.monotonic()]
        return [
            Event(f"simulated throttle {cpus:g}", moment, end - moment)
            for (moment, cpus), end in zip(self._throttled, ends, strict=True)
        ]

    def _wrapped(self, command: list[str]) -> tuple[list[str], dict[str, str]]:
        return (command, {}) if self._group is None else self._group.wrapped(command)

    def _started(self, process: int) -> None:
        if self._curve:
            self._thread = threading.Thread(target=self._replay, name="throttle", daemon=True)
            self._thread.start()

    def _replay(self) -> None:
        begin = time.monotonic()
        for moment, cpus in self._curve:
            if self._end.wait(max(0.0, begin + moment - time.monotonic())):
                return
            if self._group is not None:
                self._group.set_cpus(cpus)
                self._throttled.append((time.monotonic(), cpus))

    def _release(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._group is not None:
            self._group.close()
            self._group = None

    def _group_peak(self) -> int | None:
        return None if self._group is None else self._group.peak_bytes()

    def _ending(self, code: int) -> Ending:
        if self._group is not None and self._group.kills():
            return "out of memory"
        return super()._ending(code)


def read_curve(path: Path) -> list[tuple[float, float]]:
    """A throttle curve: a CSV of `time_s`, rising from the engine's start, and `cpus` from then on.

    Raises
    ------
    BadFile : it is none
    """
    found: list[tuple[float, float]] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                try:
                    moment, cpus = float(row["time_s"]), float(row["cpus"])
                except (KeyError, TypeError, ValueError):
                    raise BadFile(path, f"line {number} has no `time_s` and `cpus`") from None
                if (
                    not (math.isfinite(moment) and math.isfinite(cpus))
                    or moment < 0
                    or not 0.01 <= cpus <= 4096
                ):
                    raise BadFile(path, f"line {number}: a time from 0 on, and 0.01 to 4096 cpus")
                if found and moment <= found[-1][0]:
                    raise BadFile(path, f"line {number}: the time does not rise")
                found.append((moment, cpus))
                if number > _MOST_ROWS:
                    raise BadFile(path, f"more than {_MOST_ROWS} steps")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadFile(path, f"no readable throttle curve: {error}") from error
    if not found:
        raise BadFile(path, "a throttle curve without a step", hint="columns: time_s, cpus")
    return found
