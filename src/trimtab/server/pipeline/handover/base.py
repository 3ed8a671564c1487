"""What a hand-over is: a bounded line of messages from those who put to those who take, each taken once.

It moves bytes and knows nothing of what they mean. Whoever makes one owns it; the other side, perhaps in
another process, opens it by its ticket.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self


class HandOver:
    """Base of all hand-overs. Ends are used by one thread at a time unless a class says otherwise."""

    crosses: ClassVar[bool] = True
    """Its two ends may be in different processes."""

    @classmethod
    def make(cls, capacity: int, message_bytes: int) -> Self:
        """A new one.

        Parameters
        ----------
        capacity : messages that may wait
        message_bytes : of the longest one

        Raises
        ------
        UsageError : what it needs is not installed
        """
        raise NotImplementedError

    @property
    def ticket(self) -> Any:
        """What another process needs for `open`; to be passed when that process is started."""
        raise NotImplementedError

    @classmethod
    def open(cls, ticket: Any) -> Self:
        """The other end."""
        raise NotImplementedError

    def put(self, message: bytes, timeout_s: float) -> bool:
        """Add a message; False when there was no room in time."""
        raise NotImplementedError

    def take(self, timeout_s: float) -> bytes | None:
        """The oldest message; None when none came in time."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of it; the owner ends it for all."""
