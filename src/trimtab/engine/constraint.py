"""Where one output stands in its grammar: the tokens it may choose from, and those it has no choice about.

Belongs to one sequence and is used by the engine's thread alone. The mask of the next token is made when the
last one has been taken in, so that a grammar that fails ends its own request and no other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from trimtab.engine.landing import Closers, landing
from trimtab.errors import UsageError

_ROOM = 48
"""So much more than twice the way from the beginning must be left for the limit to count as far."""
_GROWTH = 8
"""Tokens by which a further token usually lengthens the way to the end at most. Now and then one begins
something as long as the way from the beginning. With much room left, the way is looked up once in many
tokens; with little, for each."""
_NEAR, _PROBE = 32, 16
"""With more than so many tokens to spare, a known way counts as open when its first tokens are."""
_UNDRAFTED = 8
"""So close to landing nothing is drafted: the masks behind a draft know nothing of the limit."""
_FEW = 64
"""Where the last tokens may be one of so many, each is tried; of more, the way to the end is taken."""
_MOST_STUCK = 4
"""Steps in a row that may end without a token. One happens where the way to the end begins."""
_SLOWEST_S = 0.5
"""A grammar that takes longer for one token is not worth everybody's wait."""


@contextmanager
def library_panics() -> Iterator[None]:
    """Turn a panic of the library, which is not even an `Exception`, into a refusal of the grammar."""
    try:
        yield
    except (UsageError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise UsageError(f"the grammar cannot be followed: {_short(str(error))}", param="grammar") from error


def checked(matcher: Any) -> None:
    """Raise what the library objects to.

    Raises
    ------
    UsageError : with the library's own words
    """
    if matcher.is_error():
        raise UsageError(f"the grammar cannot be enforced: {_short(matcher.get_error())}", param="grammar")


def _short(message: str) -> str:
    message = " ".join(message.partition("\n<state>")[0].replace("<non-verbose/>", "").split())
    message = message.replace("Unimplemented keys:", "no support for")
    return message if len(message) <= 300 else message[:297] + "..."


class Constraint:
    """The state of one output.

    Parameters
    ----------
    matcher : at the beginning of the grammar; owned from now on
    home : the way from the beginning to an end, when one is known
    left : tokens the output may have
    forces : tell what must follow; without it only masks do
    """

    __slots__ = (
        "_check_at",
        "_closers",
        "_forces",
        "_known",
        "_leap",
        "_left",
        "_matcher",
        "_path",
        "_stuck",
        "landing",
        "masks",
    )

    def __init__(
        self, matcher: Any, closers: Closers, home: list[int] | None, left: int, *, forces: bool = True
    ) -> None:
        self._matcher = matcher
        self._forces = forces
        self._closers = closers
        self._path = home  # the way to an end, from here if `_known`, else from an earlier place
        self._known = home is not None
        self._leap = max(_GROWTH, len(home or ()))
        # With fewer tokens left than this, a token must leave a way to an end that fits.
        self._check_at = 0 if home is None else 2 * len(home) + _ROOM
        self._left, self._stuck = left + 1, 0
        self.landing = False
        """The limit is near: what follows is the way to the end and nothing else."""
        self.masks: list[bytes] = []
        """One bit a token: those that may come next, then those behind each token of the last draft."""
        self.settle(left)

    @property
    def complete(self) -> bool:
        """Nothing can follow any more."""
        return bool(self._matcher.is_stopped())

    @property
    def landed(self) -> bool:
        """The way to the end has been gone."""
        return self.landing and not self._path

    def take(self, token: int, left: int) -> bool:
        """Go on by one token; False if it would leave no way to the end, and nothing has changed.

        Parameters
        ----------
        left : tokens that may follow this one

        Raises
        ------
        UsageError : the grammar became too complex on the way, or does not allow the token
        """
        if self._known and self._path:
            if token == self._path[0]:
                self._consume(self._matcher, token)
                self._path = self._path[1:]
                return True
            if self.landing:
                return False
        self._consume(self._matcher, token)
        if left >= self._check_at:
            self._known = False
            return True
        path = self._home_from(self._matcher, left)
        if path is not None:
            # Each token that is not looked at takes one of those left, and may add to the way.
            spare = left - len(path)
            unseen = max(spare // (self._leap + 1), (spare - self._leap) // (_GROWTH + 1))
            self._check_at = left - unseen
        else:
            self._matcher.rollback(1)
            checked(self._matcher)
            self._path = self._home_from(self._matcher, left + 1, whole=True)
            self._known = self._path is not None
            if self._known:
                self.landing = True
                return False
            self._consume(self._matcher, token)
            self._check_at = 0  # there was no way before either: the output will be cut
        self._path, self._known = path, path is not None
        return True

    def forced(self, left: int) -> Sequence[int]:
        """Tokens that must follow, at most `left` of them."""
        if self.landing:
            return self._path or ()
        if not self._forces:
            return ()
        began = time.thread_time()
        tokens: list[int] = self._matcher.compute_ff_tokens()
        self._check(began)
        return tokens[:left]

    def settle(self, left: int) -> None:
        """Make the mask of the next token, with `left` tokens to go.

        Raises
        ------
        UsageError : the grammar became too complex, takes too long, or allows only what cannot be taken
        """
        self._stuck = self._stuck + 1 if left == self._left else 0
        self._left = left
        if self._stuck > _MOST_STUCK:
            raise UsageError("the grammar cannot be followed: it goes on nowhere", param="grammar")
        began = time.thread_time()
        mask: bytes = self._matcher.compute_bitmask()
        self._check(began)
        if self._known and self._path:
            if len(self._path) > left:
                self._known, self._check_at = False, 0  # it cannot be reached
            elif self.landing or len(self._path) == left:
                mask = self._narrowed(mask, self._path[0], left)
        self.masks = [mask]

    def follow(self, draft: Sequence[int], left: int) -> int:
        """How many tokens of a draft the grammar allows; their masks are in `masks` afterwards."""
        del self.masks[1:]
        if self.landing or (self._known and left < len(self._path or ()) + _UNDRAFTED):
            return 0
        ahead = self._matcher.deep_copy()
        for token in draft:
            if not ahead.try_consume_tokens([token]) or ahead.is_stopped() or ahead.compute_ff_tokens():
                break  # what is forced is not drafted
            self.masks.append(ahead.compute_bitmask())
        return 0 if ahead.is_error() else len(self.masks) - 1

    def _narrowed(self, mask: bytes, first: int, left: int) -> bytes:
        """The mask of a token behind which the output can still end in time; `first` is known to be one."""
        fitting = [first]
        if not self.landing:
            bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
            allowed: list[int] = np.flatnonzero(bits).tolist()
            if len(allowed) <= _FEW:
                fitting += [token for token in allowed if token != first and self._fits(token, left - 1)]
            else:
                self.landing = True
        narrow = bytearray(len(mask))
        for token in fitting:
            narrow[token >> 3] |= 1 << (token & 7)
        return bytes(narrow)

    def _fits(self, token: int, left: int) -> bool:
        ahead = self._matcher.deep_copy()
        return bool(ahead.try_consume_tokens([token])) and landing(ahead, self._closers, left) is not None

    def _consume(self, matcher: Any, token: int) -> None:
        if not matcher.consume_token(token):
            checked(matcher)
            raise UsageError(f"the grammar does not allow token {token}", param="grammar")

    def _home_from(self, ahead: Any, left: int, *, whole: bool = False) -> list[int] | None:
        """At most `left` tokens from `ahead` to an end: what is left of the last known way, or a new one.

        Parameters
        ----------
        whole : the way is about to be gone: try all of it, however much room is left
        """
        if ahead.is_accepting():
            return []
        path = self._path or []
        for start in range(max(0, len(path) - left), len(path)):
            rest = path[start:]
            if len(rest) <= _PROBE or whole or left - len(rest) < _NEAR:
                # An output may end where its end may follow.
                if ahead.validate_tokens([*rest, self._closers.end]) > len(rest):
                    return rest
            elif ahead.validate_tokens(rest[:_PROBE]) == _PROBE:
                return rest
        return landing(ahead.deep_copy(), self._closers, left)

    def _check(self, began: float) -> None:
        checked(self._matcher)
        if time.thread_time() - began > _SLOWEST_S:
            raise UsageError("the grammar takes too long to follow", "make it simpler", "grammar")
