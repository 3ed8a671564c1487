"""The way home: tokens that bring an unfinished output to a place where its grammar may end.

A search over everything a grammar allows would have no end, so this walks: forced text first, otherwise the
token that closes most. What JSON's structure needs is tried token by token, which is quick; elsewhere the
whole mask is asked for. Where the walk has stood at the same mask before, it takes the next candidate, so
that a pattern such as `[a-z]+@` is left and not repeated for ever. It is short, not the shortest possible.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np

# What closes comes first; then what separates, short values, what opens, and everything else.
_FIRST = b"@}])\">'\n,:;./-_ 0123456789ntfae\\[{"
_STRUCTURE = b'}]",:0ntf1{['
_LETTERS = b"xQ~"
"""A place that allows all of these is inside a string."""
_AGAIN = 3
"""Taken so often in a row, a token of the structure is a pattern's and leads nowhere."""
_NUM_FILLERS = 8


class Closers:
    """The tokens of a vocabulary in the order in which they are tried.

    Parameters
    ----------
    words : bytes of each token
    special : control tokens, which are never tried
    end : a token that ends an output
    """

    def __init__(self, words: Sequence[bytes], special: Set[int], end: int) -> None:
        self.end = end
        single: dict[int, int] = {}
        for token, word in enumerate(words):
            if len(word) == 1 and token not in special:
                single.setdefault(word[0], token)
        order = [*_FIRST, *(byte for byte in range(256) if byte not in _FIRST)]
        self.tokens = [single[byte] for byte in order if byte in single]
        self.structure = [single[byte] for byte in _STRUCTURE if byte in single]
        self.letters = [single[byte] for byte in _LETTERS if byte in single]
        self.quote = single.get(ord('"'), -1)
        self.quoting = frozenset(token for token, word in enumerate(words) if b'"' in word)
        lengths = [0 if token in special else len(word) for token, word in enumerate(words)]
        self.lengths = np.array(lengths)
        plain = [
            t for t, word in enumerate(words) if lengths[t] > 3 and word.islower() and word.strip().isalpha()
        ]
        # Long words, for strings that must be long.
        self.fillers = sorted(plain, key=lambda token: (-lengths[token], token))[:_NUM_FILLERS]

    def candidate(self, mask: bytes, turn: int) -> int | None:
        """The allowed token to try at a mask seen `turn` times before; None when nothing is allowed."""

        def allows(token: int) -> int:
            return mask[token >> 3] >> (token & 7) & 1

        fillers = [token for token in self.fillers if allows(token)]
        if fillers:
            if turn % 2 == 0:
                return fillers[0]
            turn //= 2
        allowed = [token for token in self.tokens if allows(token)]
        if allowed:
            return allowed[turn % len(allowed)]
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[: len(self.lengths)]
        others = np.flatnonzero(bits.astype(bool) & (self.lengths > 0))
        if not others.size:
            return None
        shortest = others[np.argsort(self.lengths[others], kind="stable")]
        return int(shortest[turn % shortest.size])


def landing(matcher: Any, closers: Closers, most: int) -> list[int] | None:
    """Up to `most` tokens from here to an accepted end; None when the walk does not get there.

    Parameters
    ----------
    matcher : consumed by the walk
    """
    path: list[int] = []
    turns: dict[bytes, int] = {}
    while not matcher.is_accepting():
        if matcher.is_error():
            return None
        step: list[int] = matcher.compute_ff_tokens()
        if not step:
            token = _structural(matcher, closers, path)
            if token is None:
                mask: bytes = matcher.compute_bitmask()
                turn = turns.get(mask, 0)
                turns[mask] = turn + 1
                token = closers.candidate(mask, turn)
            if token is None:
                return None
            step = [token]
        if not closers.quoting.isdisjoint(step):
            turns.clear()  # another string begins anew
        if len(path) + len(step) > most or not matcher.consume_tokens(step):
            return None
        path += step
    return path


def _structural(matcher: Any, closers: Closers, path: Sequence[int]) -> int | None:
    """The token that ends a string or goes on in JSON's structure, if this is JSON."""
    if closers.letters and all(matcher.validate_tokens([token]) for token in closers.letters):
        return closers.quote if closers.quote >= 0 and matcher.validate_tokens([closers.quote]) else None
    for token in closers.structure:
        if matcher.validate_tokens([token]):
            return None if path[-_AGAIN:] == [token] * _AGAIN else token
    return None
