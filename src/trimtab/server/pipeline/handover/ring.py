"""ring: a ring of slots in memory that processes share; a message is copied in once and out once.

Two semaphores count what is free and what is there, and one lock guards the two positions. A process that
dies inside the lock, for the time of one copy, leaves the ring unusable; whoever owns it notices dead
processes and makes a new one.
"""

from __future__ import annotations

import multiprocessing
import struct
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Self

from trimtab.errors import UsageError
from trimtab.server.pipeline.handover.base import HandOver

_HEAD = struct.Struct("<QQ")  # next slot to write, next slot to read
_LENGTH = struct.Struct("<I")


class Ring(HandOver):
    """Any number of processes and threads may put and take."""

    def __init__(self, memory: SharedMemory, slots: int, slot_bytes: int, locks: Any, owner: bool) -> None:
        self._memory, self._slots, self._slot_bytes, self._owner = memory, slots, slot_bytes, owner
        self._bytes: memoryview[int] = memory.buf  # type: ignore[assignment]  # None only once it is closed
        self._lock, self._free, self._there = self._locks = locks

    @classmethod
    def make(cls, capacity: int, message_bytes: int) -> Self:
        context = multiprocessing.get_context("spawn")
        slot_bytes = _LENGTH.size + message_bytes
        memory = SharedMemory(create=True, size=_HEAD.size + capacity * slot_bytes)
        _HEAD.pack_into(memory.buf, 0, 0, 0)  # type: ignore[arg-type]
        locks = context.Lock(), context.Semaphore(capacity), context.Semaphore(0)
        return cls(memory, capacity, slot_bytes, locks, True)

    @property
    def ticket(self) -> Any:
        return self._memory.name, self._slots, self._slot_bytes, self._locks

    @classmethod
    def open(cls, ticket: Any) -> Self:
        name, slots, slot_bytes, locks = ticket
        return cls(_attached(name), slots, slot_bytes, locks, False)

    def put(self, message: bytes, timeout_s: float) -> bool:
        if len(message) > self._slot_bytes - _LENGTH.size:
            raise UsageError(
                f"a message of {len(message)} bytes does not fit the ring's slots of "
                f"{self._slot_bytes - _LENGTH.size}",
                "make the strips narrower, or send them as jpeg",
            )
        if not self._free.acquire(timeout=max(0.0, timeout_s)):
            return False
        with self._lock:
            write, read = _HEAD.unpack_from(self._bytes, 0)
            start = _HEAD.size + write % self._slots * self._slot_bytes
            _LENGTH.pack_into(self._bytes, start, len(message))
            start += _LENGTH.size
            self._bytes[start : start + len(message)] = message
            _HEAD.pack_into(self._bytes, 0, write + 1, read)
        self._there.release()
        return True

    def take(self, timeout_s: float) -> bytes | None:
        if not self._there.acquire(timeout=max(0.0, timeout_s)):
            return None
        with self._lock:
            write, read = _HEAD.unpack_from(self._bytes, 0)
            start = _HEAD.size + read % self._slots * self._slot_bytes
            (length,) = _LENGTH.unpack_from(self._bytes, start)
            start += _LENGTH.size
            message = bytes(self._bytes[start : start + length])
            _HEAD.pack_into(self._bytes, 0, write, read + 1)
        self._free.release()
        return message

    def close(self) -> None:
        self._bytes.release()
        self._memory.close()
        if self._owner:
            with suppress(FileNotFoundError):
                self._memory.unlink()


def _attached(name: str) -> SharedMemory:
    """Memory of another process; that process alone may unlink it, also when this one ends first."""
    from multiprocessing import resource_tracker

    register = resource_tracker.register
    try:
        # Until Python 3.13 has `track=False`, attaching would count as owning.
        resource_tracker.register = lambda *_: None
        return SharedMemory(name=name)
    finally:
        resource_tracker.register = register
