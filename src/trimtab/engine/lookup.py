"""Drafts by prompt look-up: where the last tokens occurred before, guess that the same will follow again.

A draft costs nothing to make, but verifying it makes a step somewhat longer, so an online gate decides
whether it pays. While the gate is closed, guesses are still made and compared with what the model says
anyway: the estimate stays true and costs no step. This module knows tokens only; verification is the
scheduler's.
"""

from __future__ import annotations

from array import array

MAX_DRAFT = 3
"""Longest draft: four rows cost about a fifth more than one, eight would cost twice as much."""
MAX_ROWS = 8
"""Above this many rows a step is bound by arithmetic, and drafts only cost."""
OPEN_AT = 1.2
"""Tokens per step from which verifying a draft pays."""
_START = 1.3
_RATE = 0.2

NO_DRAFT = array("i")


def draft_length(sequences: int) -> int:
    """Longest draft of each sequence in a step that decodes this many."""
    return min(MAX_DRAFT, MAX_ROWS // sequences - 1) if sequences else 0


class Lookup:
    """The drafts of one sequence.

    Two kinds of match are kept apart, each with its own gate: the last two tokens occurred before, or the
    last three did.
    """

    __slots__ = ("_followers", "_indexed", "_kind", "_shadow", "_shadow_at", "expected")

    def __init__(self) -> None:
        self.expected = [_START, _START]
        """Estimated tokens per step with a draft, for matches of two and of three tokens."""
        self._followers: dict[int, int] = {}  # two tokens, packed -> position after their last occurrence
        self._indexed = 2
        self._kind = 0
        self._shadow = NO_DRAFT
        self._shadow_at = 0

    def draft(self, tokens: array[int], limit: int) -> array[int]:
        """Guess up to `limit` tokens that follow; empty without a match or while the gate is closed.

        A draft that is not empty must be verified and reported to `verified` before the next call.
        """
        end = len(tokens)
        followers = self._followers
        for position in range(self._indexed, end):
            followers[tokens[position - 2] << 32 | tokens[position - 1]] = position
        self._indexed = max(end, 2)
        if self._shadow:
            self._resolve_shadow(tokens, end)
        if end < 2:
            return NO_DRAFT
        match = followers.get(tokens[end - 2] << 32 | tokens[end - 1])
        if match is None:
            return NO_DRAFT
        kind = 1 if match > 2 and tokens[match - 3] == tokens[end - 3] else 0
        if self.expected[kind] < OPEN_AT:
            if not self._shadow:
                self._shadow, self._shadow_at = tokens[match : match + MAX_DRAFT], end
                self._kind = kind
            return NO_DRAFT
        self._kind = kind
        self._shadow = NO_DRAFT
        return tokens[match : match + limit]

    def verified(self, accepted: int) -> None:
        """Report how many tokens of the last draft were right."""
        kind = self._kind
        self.expected[kind] += _RATE * (1 + accepted - self.expected[kind])

    def _resolve_shadow(self, tokens: array[int], end: int) -> None:
        shadow, start = self._shadow, self._shadow_at
        right = 0
        while right < len(shadow) and start + right < end and tokens[start + right] == shadow[right]:
            right += 1
        if right == len(shadow) or start + right < end:
            self.verified(right)
            self._shadow = NO_DRAFT
