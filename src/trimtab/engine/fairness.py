"""Who is next among those who wait: the tenant that has had least, so that a long queue delays nobody else.

Every tenant has a counter of the tokens it has been served, divided by its weight; the next sequence is the
oldest of the tenant with the lowest counter. A tenant that comes back after a pause is lifted to the others'
level: it gets its share from now on, and no credit for the time it was away. Lower priority numbers go first
whatever the counters say. The queue knows sequences and counters, nothing of pages or steps.

References: "Fairness in Serving Large Language Models" (VTC), arXiv 2401.00588, algorithm 2.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from trimtab.engine.sequence import Sequence

PROMPT_COST = 1.0
OUTPUT_COST = 2.0
"""A token of output is served one step at a time, prompts in chunks; the paper's ratio."""
MOST_ACCOUNTS = 4096

_AGE = attrgetter("age")


class Caller(NamedTuple):
    """On whose behalf a request runs.

    Parameters
    ----------
    weight : share of a busy engine, relative to others
    patience_s : how long it may wait to start; then it is refused
    """

    name: str = ""
    weight: float = 1.0
    patience_s: float = math.inf


NOBODY = Caller()


class Account:
    """What one tenant has been served, and what it still wants.

    Parameters
    ----------
    served : cost of its tokens by weight; comparable between tenants that are active
    running : sequences in work
    """

    __slots__ = ("name", "queue", "running", "served", "weight")

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.served = 0.0
        self.running = 0
        self.queue: list[Sequence] = []

    def charge(self, cost: float) -> None:
        """Note work that was done, or is about to be."""
        self.served += cost / self.weight

    @property
    def active(self) -> bool:
        return bool(self.running or self.queue)


class FairQueue:
    """The waiting sequences of all tenants."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._waiting: dict[str, Account] = {}
        self._left: Account | None = None  # who was the last to have nobody waiting any more
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        for account in self._waiting.values():
            yield from account.queue

    @property
    def several(self) -> bool:
        """There has been more than one tenant, so order is not just age."""
        return len(self._accounts) > 1

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind its tenant's older ones."""
        account = self._account(sequence)
        if not account.queue:
            self._lift(account, sequence.age[0])
            self._waiting[account.name] = account
        insort(account.queue, sequence, key=_AGE)
        self._length += 1

    def remove(self, sequence: Sequence) -> bool:
        """Take a sequence out, to run or to be forgotten; False if it was not here."""
        account = sequence.account
        if account is None or sequence not in account.queue:
            return False
        account.queue.remove(sequence)
        self._length -= 1
        if not account.queue:
            del self._waiting[account.name]
            self._left = account
        return True

    def head(self) -> Sequence | None:
        """Who is next."""
        heads = [account.queue[0] for account in self._waiting.values()]
        if len(heads) < 2:
            return heads[0] if heads else None
        return min(heads, key=rank)

    def share_of(self, account: Account) -> float:
        """The part of the engine that is an active tenant's own."""
        whole = sum(other.weight for other in self._accounts.values() if other.active)
        return account.weight / whole if whole else 1.0

    def running(self, name: str) -> int:
        """Sequences of a tenant that are in work."""
        account = self._accounts.get(name)
        return account.running if account is not None else 0

    def waiting(self, name: str) -> tuple[int, float]:
        """How many of a tenant wait, and its share of the engine once one more does. Any thread may ask."""
        account = self._accounts.get(name)
        others = tuple(self._waiting.values())
        weight = account.weight if account is not None else 1.0
        whole = weight + sum(other.weight for other in others if other is not account)
        return len(account.queue) if account is not None else 0, weight / whole

    def _account(self, sequence: Sequence) -> Account:
        caller = sequence.caller
        account = self._accounts.get(caller.name)
        if account is None:
            if len(self._accounts) >= MOST_ACCOUNTS:
                self._forget()
            account = self._accounts[caller.name] = Account(caller.name, caller.weight)
        account.weight = caller.weight
        sequence.account = account
        return account

    def _lift(self, account: Account, priority: int) -> None:
        levels = [other.served for other in self._waiting.values() if other.queue[0].age[0] <= priority]
        if levels:
            account.served = max(account.served, min(levels))
        elif self._left is not None:
            account.served = max(account.served, self._left.served)

    def _forget(self) -> None:
        """Drop who is not here; on return they are lifted to the others' level, as from zero."""
        self._accounts = {name: account for name, account in self._accounts.items() if account.active}


def rank(sequence: Sequence) -> tuple[int, float, int]:
    """Order of service, lowest first: priority, what the tenant has had, age."""
    priority, serial = sequence.age
    return priority, sequence.account.served if sequence.account is not None else 0.0, serial
