"""What moves through a pipeline: one job a request, and the items a job falls apart into.

A job is handed from stage to stage; only the thread that has it in hand changes it, but for the count of
items that are under way, which has the job's own lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trimtab.server.pipeline.header import Header
from trimtab.server.pipeline.trace import Trace


@dataclass(slots=True, eq=False)
class Job:
    """One picture on its way.

    Parameters
    ----------
    body : the file
    header : what its first bytes say
    deadline : of the monotonic clock; work on it stops after that
    tell : called once, from any thread, when it is over
    values : what stages gave, by type of port
    traced_at : up to when its time is accounted for
    """

    body: bytes
    header: Header
    deadline: float
    tell: Callable[[Job], None]
    trace: Trace = field(default_factory=Trace)
    values: dict[str, Any] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    error: BaseException | None = None
    cancelled: bool = False
    tenant: str = ""
    queued_at: float = 0.0
    traced_at: float = 0.0
    ended_at: float = 0.0
    cost_s: float = 0.0
    open_items: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    _over: bool = False

    @property
    def job(self) -> Job:
        """Itself, as an item's."""
        return self

    @property
    def dead(self) -> bool:
        """Nobody waits for what else could be done."""
        return self.cancelled or self.error is not None or time.monotonic() > self.deadline

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.cancelled = True

    def finish(self) -> bool:
        """It is over; True for the one who says so first."""
        with self.lock:
            first, self._over = not self._over, True
        return first

    def item_done(self) -> bool:
        """One item less; True for the last one."""
        with self.lock:
            self.open_items -= 1
            return self.open_items == 0


@dataclass(slots=True, eq=False)
class Item:
    """One crop of a job.

    Parameters
    ----------
    pixels : uint8 (height, width, 3), upright as far as known
    turned : it stands on its head, as the direction classifier found
    """

    job: Job
    index: int
    pixels: Any
    turned: bool = False
    turn_score: float = 0.0
    text: str = ""
    score: float = 0.0
    queued_at: float = 0.0
    traced_at: float = 0.0

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])
