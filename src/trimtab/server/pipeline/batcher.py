"""Items that wait for company: a bounded queue that gives out batches of like items.

Pure bookkeeping: the time is an argument, and whoever owns it holds a lock. A batch is ripe when it is full
or when its oldest item has waited long enough. Of several ripe ones the one that has waited longest goes
first.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    """What can wait here."""

    queued_at: float


Unit = TypeVar("Unit", bound=Queued)


class Batcher(Generic[Unit]):
    """Items by key, oldest first.

    Parameters
    ----------
    most : items of a batch
    delay_s : longest wait for others
    """

    def __init__(self, most: int = 1, delay_s: float = 0.0) -> None:
        self.most, self.delay_s = most, delay_s
        self._groups: OrderedDict[Hashable, deque[Unit]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, unit: Unit, key: Hashable, now: float) -> None:
        """Wait from now on."""
        unit.queued_at = now
        self._groups.setdefault(key, deque()).append(unit)
        self._count += 1

    def ripe_at(self) -> float:
        """When there will be a batch if nothing else comes; infinite without items."""
        return min((self._ripe(group) for group in self._groups.values()), default=math.inf)

    def take(self, now: float) -> list[Unit]:
        """The batch that has been ripe for longest; empty when none is."""
        ripe = [(group[0].queued_at, key) for key, group in self._groups.items() if self._ripe(group) <= now]
        if not ripe:
            return []
        _, key = min(ripe, key=lambda one: one[0])
        group = self._groups[key]
        batch = [group.popleft() for _ in range(min(self.most, len(group)))]
        if not group:
            del self._groups[key]
        self._count -= len(batch)
        return batch

    def _ripe(self, group: deque[Unit]) -> float:
        if len(group) >= self.most:
            return -math.inf
        return group[0].queued_at + self.delay_s
