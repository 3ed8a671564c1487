"""When to say no: bounds on who may wait, and an estimate of how long it would take.

A request that would wait longer than its caller's patience is refused at once where the rate of the queue is
known, and when its time has come where it is not; one that has started is never refused. The rate counts only
time in which somebody waited: how fast an idle engine gets requests says nothing about how fast it serves.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from trimtab.errors import Busy

if TYPE_CHECKING:
    from trimtab.engine.fairness import Caller, FairQueue
    from trimtab.engine.sequence import Sequence

RATE_MEMORY_S = 30.0
"""The rate of the queue is that of about the last so many seconds in which somebody waited."""
LONGEST_RETRY_S = 60
_LOOK_EVERY_S = 0.1


class QueueRate:
    """Requests that start a second while others wait."""

    __slots__ = ("_seconds", "_started")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._started = 0.0

    def note(self, seconds: float, started: int) -> None:
        """Some time with a queue, and how many left it to run; what is long past fades."""
        fade = math.exp(-seconds / RATE_MEMORY_S)
        self._seconds = self._seconds * fade + seconds
        self._started = self._started * fade + started

    @property
    def per_second(self) -> float | None:
        """None until enough has been seen to tell."""
        if self._seconds < 1.0 or self._started < 2.0:
            return None
        return self._started / self._seconds


class Backpressure:
    """Guards the queue.

    Parameters
    ----------
    max_waiting : requests in all beyond those that can run
    max_waiting_each : the same for each named caller; None for no limit of its own

    `check`, `enter` and `leave` are called under the engine's lock; `note` and `expired` in its thread.
    """

    def __init__(
        self, queue: FairQueue, *, max_running: int, max_waiting: int, max_waiting_each: int | None
    ) -> None:
        self._queue = queue
        self._most = max_running + max_waiting
        self._most_each = None if max_waiting_each is None else max_running + max_waiting_each
        self._open: Counter[str] = Counter()
        self._rate = QueueRate()
        self._last: tuple[float, int, bool] | None = None
        self._looked = 0.0

    def check(self, caller: Caller) -> None:
        """Whether one more request of this caller may queue.

        Raises
        ------
        Busy : with the seconds after which there is room, as far as one can tell
        """
        total = self._open.total()
        if total >= self._most:
            raise self._busy(f"{total} requests are running or waiting, and {self._most} is the most")
        if self._most_each is not None and caller.name and self._open[caller.name] >= self._most_each:
            raise self._busy(
                f"{self._open[caller.name]} requests of yours are running or waiting, "
                f"and {self._most_each} is the most"
            )
        wait = self.wait_s(caller)
        if wait is not None and wait > caller.patience_s:
            busy = self._busy(
                f"a new request would wait {wait:.0f} s, and {caller.patience_s:g} s is the most"
            )
            busy.retry_after_s = _retry(wait - caller.patience_s)
            raise busy

    def enter(self, sequence: Sequence) -> None:
        """One more."""
        self._open[sequence.caller.name] += 1

    def leave(self, sequence: Sequence) -> None:
        """One less."""
        name = sequence.caller.name
        self._open[name] -= 1
        if self._open[name] <= 0:
            del self._open[name]

    def note(self, now: float, started: int) -> None:
        """A step is over; `started` requests have started since the beginning."""
        if self._last is not None and self._last[2]:
            self._rate.note(now - self._last[0], started - self._last[1])
        self._last = now, started, len(self._queue) > 0

    def expired(self, now: float) -> list[Sequence]:
        """Those whose callers have waited long enough."""
        if now - self._looked < _LOOK_EVERY_S:
            return []
        self._looked = now
        return [s for s in self._queue if not s.preempted and now - s.submitted_at > s.caller.patience_s]

    def refusal(self, sequence: Sequence) -> Busy:
        """What to tell an expired one."""
        return self._busy(f"the request has waited {sequence.caller.patience_s:g} s, the most on this server")

    def wait_s(self, caller: Caller) -> float | None:
        """How long a new request of this caller would wait, None if one cannot tell."""
        rate = self._rate.per_second
        if rate is None:
            return None
        mine, share = self._queue.waiting(caller.name)
        return min(len(self._queue), mine / share) / rate

    def _busy(self, message: str) -> Busy:
        busy = Busy(message, "try again later")
        rate = self._rate.per_second
        if rate is not None:
            # Not when the next place is free, for which all the refused would race, but halfway.
            busy.retry_after_s = _retry(len(self._queue) / rate / 2)
        return busy


def _retry(seconds: float) -> int:
    return min(LONGEST_RETRY_S, max(1, math.ceil(seconds)))
