"""One output in the making: its tokens, its pages, how its next token is chosen and when it ends.

A sequence is written by the engine's thread alone. Its reader, in another thread, looks at `closed` first
and at the rest afterwards; until then every field it reads only grows.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from trimtab.engine.adjust import Adjustments
from trimtab.engine.batch import PAGE_TOKENS, Floats
from trimtab.engine.fairness import NOBODY, Account, Caller
from trimtab.engine.pages import next_digest, root_digest
from trimtab.engine.sampling import SAMPLING, Doubles, SamplingParams, sampling_row

if TYPE_CHECKING:
    from trimtab.engine.constraint import Constraint
    from trimtab.engine.handle import Waiter
    from trimtab.engine.lookup import Lookup
    from trimtab.engine.output import FinishReason, StopText, TokenLogprob

# A row of SAMPLING ends with its draw: all before it is packed once for a sequence.
DRAW_AT = 48
if SAMPLING.fields is None or SAMPLING.fields["draw"][1] != DRAW_AT or SAMPLING.itemsize != DRAW_AT + 8:
    raise ImportError("SAMPLING must end with its eight-byte draw")
MASK_AT = SAMPLING.fields["mask"][1]


class Sequence:
    """State of one output.

    Parameters
    ----------
    prompt : token ids, int32
    limit : tokens at which the output ends, prompt included
    ends : tokens that end the output
    stop : the text, when stop strings must be looked for
    seed : of the sequence's own random numbers
    age : order of service, lowest first: (priority, serial number)
    shares : the pages may be shared with sequences of equal `salt`
    pooling : its result is the mean of its final hidden states; like scoring, it computes every position
    constraint : what the output must look like
    timed : note in `times` when each output token came
    caller : on whose behalf it runs
    """

    __slots__ = (
        "account", "adjust", "age", "cached", "caller", "closed", "computed", "constraint", "digests", "ends",
        "error", "finish", "finished_at", "first_at", "limit", "logprobs", "lookup", "matched", "pages",
        "params", "pooled", "pooling", "preempted", "prompt_length", "prompt_logprobs", "published", "record",
        "score_record", "shares", "started_at", "stop", "submitted_at", "times", "tokens", "top", "waiter",
        "woken_at",
    )  # fmt: skip

    def __init__(
        self,
        prompt: array[int],
        params: SamplingParams,
        *,
        limit: int,
        ends: frozenset[int] = frozenset(),
        stop: StopText | None = None,
        seed: int = 0,
        age: tuple[int, int] = (0, 0),
        salt: str = "",
        shares: bool = True,
        pooling: bool = False,
        constraint: Constraint | None = None,
        submitted_at: float = 0.0,
        timed: bool = False,
        caller: Caller = NOBODY,
    ) -> None:
        self.tokens = prompt[:]
        self.prompt_length = len(prompt)
        self.params = params
        self.limit = limit
        self.ends = ends
        self.stop = stop
        self.age = age
        self.caller = caller
        self.account: Account | None = None  # the caller's, once it is queued
        self.submitted_at = submitted_at
        self.started_at = 0.0  # when its prompt first entered a step
        self.first_at = 0.0
        self.finished_at = 0.0
        self.times: array[float] | None = array("d") if timed else None

        self.computed = 0  # positions whose keys and values are in the pages
        self.pages = array("i")
        self.shares = shares
        self.digests = [root_digest(salt)]  # digests[i] covers the first i pages
        if shares:
            self.extend_digests(len(prompt))
        self.published = 0  # pages known to the pool by their digest
        self.cached = 0  # prompt tokens that were shared instead of computed
        self.preempted = False

        self.top = -1 if params.logprobs is None else params.logprobs
        self.record = sampling_row(params, seed).tobytes()[:DRAW_AT]
        banned = ends if params.min_tokens > 0 else ()
        self.adjust: Adjustments | None = None
        if params.adjusts or banned:
            self.adjust = Adjustments(params, prompt, banned)
        self.logprobs: list[TokenLogprob] | None = None if params.logprobs is None else []
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self.score_record = None
        if params.prompt_logprobs is not None:
            self.prompt_logprobs = [None]
            self.score_record = sampling_row(params, 0, score=0, top_logprobs=params.prompt_logprobs)
        self.pooling = pooling
        self.pooled: Doubles | None = None  # the sum of the hidden states so far
        self.lookup: Lookup | None = None
        self.constraint = constraint

        self.finish: FinishReason | None = None
        self.matched: str | int | None = None
        self.error: BaseException | None = None
        self.closed = False  # set last, when everything else is final
        self.waiter: Waiter | None = None
        self.woken_at = float("-inf")  # its reader, last time

    @property
    def scoring(self) -> bool:
        """The rows of the prompt are wanted too; this also means that every one must be computed."""
        return self.score_record is not None and len(self.tokens) == self.prompt_length

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.error is not None

    @property
    def embedding(self) -> Floats | None:
        """The mean of the hidden states, (width,), when it was asked for and all are there."""
        if self.pooled is None or self.finish != "length":
            return None
        mean: Floats = (self.pooled / self.prompt_length).astype(np.float32)
        return mean

    def extend_digests(self, length: int) -> None:
        """Compute the digests of the full pages among the first `length` tokens."""
        digests = self.digests
        while len(digests) * PAGE_TOKENS <= length:
            start = (len(digests) - 1) * PAGE_TOKENS
            digests.append(next_digest(digests[-1], self.tokens[start : start + PAGE_TOKENS].tobytes()))

    def accept(self, token: int) -> bool:
        """Append an output token; True when it ends the output.

        A token that the grammar lets nothing end behind in time is refused: nothing is appended then.
        """
        reason: FinishReason | None = None
        constraint = self.constraint
        if token in self.ends:
            reason, self.matched = "stop", token
        elif constraint is not None and not constraint.take(token, self.limit - len(self.tokens) - 1):
            return False
        elif self.stop is not None and (matched := self.stop.push(token)) is not None:
            reason, self.matched = "stop", matched
        tokens = self.tokens
        tokens.append(token)
        if reason is None and constraint is not None:
            if constraint.landing:
                reason = "length" if constraint.landed else None
            elif constraint.complete:
                reason = "stop"
        if reason is not None:
            self.end(reason)
            return True
        if len(tokens) >= self.limit:
            self.end("length")
            return True
        if self.adjust is not None:
            self._adjust(token)
        return False

    def settle(self) -> None:
        """After tokens were accepted: append what the grammar forces, and make the mask of the next token.

        Forced tokens are not sampled, so they come without log-probabilities; who wants those waits for them.
        """
        constraint = self.constraint
        if constraint is None:
            return
        if constraint.landed:
            self.end("length")
            return
        if self.logprobs is None:
            for token in constraint.forced(self.limit - len(self.tokens)):
                if self.accept(token):
                    return
        constraint.settle(self.limit - len(self.tokens))

    def end(self, reason: FinishReason) -> None:
        """End the output; text that was held back becomes visible."""
        if self.stop is not None and not isinstance(self.matched, str):
            matched = self.stop.flush()
            if matched is not None:
                reason, self.matched = "stop", matched
        self.finish = reason

    def _adjust(self, token: int) -> None:
        adjust = self.adjust
        if adjust is None:
            return
        if adjust.follows_output:
            adjust.count(token)
        if len(self.tokens) - self.prompt_length == self.params.min_tokens and not adjust.allow(self.ends):
            self.adjust = None
