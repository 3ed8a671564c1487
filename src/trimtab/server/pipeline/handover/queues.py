"""queue: a bounded queue inside one process; what is handed over is a pointer."""

from __future__ import annotations

import queue
from typing import Any, ClassVar, Self

from trimtab.server.pipeline.handover.base import HandOver


class Queue(HandOver):
    """Any number of threads may put and take."""

    crosses: ClassVar[bool] = False

    def __init__(self, capacity: int) -> None:
        self._queue: queue.Queue[bytes] = queue.Queue(capacity)

    @classmethod
    def make(cls, capacity: int, message_bytes: int) -> Self:
        return cls(capacity)

    @property
    def ticket(self) -> Any:
        return self

    @classmethod
    def open(cls, ticket: Any) -> Self:
        found: Self = ticket
        return found

    def put(self, message: bytes, timeout_s: float) -> bool:
        try:
            self._queue.put(message, timeout=max(0.0, timeout_s))
        except queue.Full:
            return False
        return True

    def take(self, timeout_s: float) -> bytes | None:
        try:
            return self._queue.get(timeout=max(0.0, timeout_s)) if timeout_s > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None
