"""The logits a sequence changes: penalties that follow its tokens, biases, and ends that are not allowed yet.

The entries are kept current token by token, so that a long output costs one small update a step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from trimtab.engine.batch import Records
from trimtab.engine.sampling import ADJUST, SamplingParams, adjust_entries


class Adjustments:
    """ADJUST entries of one sequence.

    Parameters
    ----------
    banned : tokens that may not be chosen until `allow` is called (ends before `min_tokens`)
    """

    __slots__ = ("_bias", "_counts", "_entries", "_places", "_size", "follows_output")

    def __init__(self, params: SamplingParams, prompt: Sequence[int], banned: Collection[int] = ()) -> None:
        self.follows_output = params.penalises
        """The entries change with every output token, so tokens cannot be drafted ahead."""
        self._bias = params.logit_bias
        self._entries: Records = adjust_entries(params, prompt)
        self._size = len(self._entries)
        self._counts = self._entries["count"]
        self._places: dict[int, int] = {}
        if banned or self.follows_output:
            self._places = {token: place for place, token in enumerate(self._entries["token"].tolist())}
        for token in banned:
            self._set_bias(token, -np.inf)

    @property
    def entries(self) -> Records:
        """The current entries, one a token; a view, good until the next change."""
        return self._entries[: self._size]

    def allow(self, tokens: Collection[int]) -> bool:
        """Let these tokens be chosen again; True when adjustments are still needed for other reasons."""
        for token in tokens:
            self._set_bias(token, self._bias.get(token, 0.0))
        return self.follows_output or bool(self._bias)

    def count(self, token: int) -> None:
        """Note one more output token."""
        place = self._place(token)
        self._counts[place] += 1

    def _set_bias(self, token: int, bias: float) -> None:
        place = self._place(token)  # first: it may replace the entries by longer ones
        self._entries[place]["bias"] = bias

    def _place(self, token: int) -> int:
        place = self._places.get(token)
        if place is not None:
            return place
        place = self._places[token] = self._size
        if place == len(self._entries):
            grown = np.zeros(2 * place + 16, ADJUST)
            grown[:place] = self._entries
            self._entries, self._counts = grown, grown["count"]
        self._entries[place]["token"] = token
        self._size += 1
        return place
