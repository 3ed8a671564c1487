"""The most memory that this process had in use while something ran, and the most that was resident."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from trimtab.machine.footprint import spare_bytes
from trimtab.machine.probe import resident_bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes resident, and of them those that the C library keeps without use."""

    resident: int = 0
    spare: int = 0

    @classmethod
    def now(cls) -> Memory:
        return cls(resident_bytes(), spare_bytes())

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.resident - other.resident, self.spare - other.spare)


class Watch:
    """Looks at the memory every few milliseconds; `most` is when the most was in use, `highest` resident.

    They differ, for freed memory stays resident for a while.
    """

    EVERY_S = 0.004

    def __enter__(self) -> Watch:
        self._looks, self._end = [Memory.now()], threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._end.wait(self.EVERY_S):
            self._looks.append(Memory.now())

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._looks.append(Memory.now())
        self.most = max(self._looks, key=lambda look: look.resident - look.spare)
        self.highest = max(look.resident for look in self._looks)
