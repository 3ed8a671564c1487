"""The shortest way home: tokens that bring an unfinished output to a place where its grammar may end.

A search over everything a grammar allows would have no end, so this walks: forced text first, otherwise the
allowed token that closes most. Where it has stood at the same place before, it takes the next candidate, so
that a pattern such as `[a-z]+@` is left and not repeated for ever. The walk is short, not the shortest
possible.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np

# What closes comes first; then what separates, short values, what opens, and everything else.
_FIRST = b"@}])\">'\n,:;./-_ 0123456789ntfae\\[{"

_STRUCTURE = 20
"""Where more single bytes than this are allowed, it is inside a string: JSON's structure allows no more."""


class Closers:
    """Tokens of one byte in the order in which they are tried, and the rest of the vocabulary behind them."""

    def __init__(self, words: Sequence[bytes], special: Set[int]) -> None:
        single: dict[int, int] = {}
        for token, word in enumerate(words):
            if len(word) == 1 and token not in special:
                single.setdefault(word[0], token)
        order = [*_FIRST, *(byte for byte in range(256) if byte not in _FIRST)]
        self.tokens = [single[byte] for byte in order if byte in single]
        self.quote = single.get(ord('"'), -1)
        self.brackets = {single[byte] for byte in b"}]" if byte in single}
        # For vocabularies without every byte: the shortest tokens first.
        self.lengths = np.array(
            [len(word) if token not in special else 0 for token, word in enumerate(words)]
        )

    def candidate(self, mask: bytes, turn: int) -> int | None:
        """The allowed token to try at a place seen `turn` times before; None when nothing is allowed."""
        allowed = [token for token in self.tokens if mask[token >> 3] >> (token & 7) & 1]
        if self.quote in allowed and (len(allowed) > _STRUCTURE or self.brackets.isdisjoint(allowed)):
            return self.quote
        if allowed:
            return allowed[turn % len(allowed)]
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[: len(self.lengths)]
        others = np.flatnonzero(bits.astype(bool) & (self.lengths > 0))
        if not others.size:
            return None
        shortest = others[np.argsort(self.lengths[others], kind="stable")]
        return int(shortest[turn % shortest.size])


def landing(matcher: Any, closers: Closers | None, most: int) -> list[int] | None:
    """Up to `most` tokens from here to an accepted end; None when the walk does not get there.

    Parameters
    ----------
    matcher : consumed by the walk
    """
    path: list[int] = []
    turns: dict[bytes, int] = {}
    while not matcher.is_accepting():
        if matcher.is_error() or closers is None:
            return None
        step: list[int] = matcher.compute_ff_tokens()
        if not step:
            mask: bytes = matcher.compute_bitmask()
            turn = turns.get(mask, 0)
            turns[mask] = turn + 1
            token = closers.candidate(mask, turn)
            if token is None:
                return None
            step = [token]
        if len(path) + len(step) > most or not matcher.consume_tokens(step):
            return None
        path += step
    return path
