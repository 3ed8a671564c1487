"""What an operation is to the pipeline: ports with types, a key that says who may share a batch, and a run.

Types of ports: `bytes` (a file), `image` (uint8 (h, w, 3), RGB), `tensor` (float32 (1, 3, h, w)), `boxes`
(float32 (n, 4, 2) in pixels of the decoded picture), `crops` (items, one for each box), `turns` and `texts`
(of each crop). An operation knows neither queues nor other operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from trimtab.server.pipeline.buffers import Buffers
from trimtab.server.pipeline.work import Item, Job

Clock = Callable[[], float]


class Settings(BaseModel):
    """Settings of an operation; closed, as all settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Laps:
    """Where the time of one run of an operation goes; each mark ends a lap.

    `spans` holds (what, begin, end, processor seconds of this thread).

    Parameters
    ----------
    began : of the first lap; default: now
    """

    def __init__(self, began: float | None = None) -> None:
        self.spans: list[tuple[str, float, float, float]] = []
        self._at, self._cpu_s = began or time.monotonic(), time.thread_time()

    def mark(self, what: str) -> None:
        """What was done since the last mark."""
        at, cpu_s = time.monotonic(), time.thread_time()
        self.spans.append((what, self._at, at, cpu_s - self._cpu_s))
        self._at, self._cpu_s = at, cpu_s


class Op:
    """Base of all operations.

    Parameters
    ----------
    settings : the stage's own, as in its file
    threads : of a network
    buffers : where large arrays come from
    """

    takes: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    each: ClassVar[bool] = False
    """It works on crops, several pictures' together, and not on a whole picture."""
    portable: ClassVar[bool] = False
    """Its items can be packed and sent to another process."""
    Settings: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: dict[str, Any], threads: int, buffers: Buffers) -> None:
        self.settings = self.Settings.model_validate(settings)
        self.threads = threads
        self.buffers = buffers

    def key(self, unit: Any, bucket: int) -> Hashable:
        """Only units of the same key share a batch."""
        return 0

    def run(self, units: Sequence[Any], laps: Laps) -> None:
        """Do the work of one batch: `Job`s, or `Item`s where `each` is set. Called by several threads."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what is held."""


class JobOp(Op):
    """An operation on whole pictures, one at a time."""

    def run(self, units: Sequence[Job], laps: Laps) -> None:
        for job in units:
            self.one(job, laps)

    def one(self, job: Job, laps: Laps) -> None:
        raise NotImplementedError


class ItemOp(Op):
    """An operation on crops."""

    each = True

    def run(self, units: Sequence[Item], laps: Laps) -> None:
        raise NotImplementedError
