"""Admission by prediction: a request that could not keep its latency objective is refused before it waits.

The estimate is an inequality in alpha, beta and gamma of a `RequestModel`: what is still to be computed of
the prompts before it and of its own, within one limit; a step of everyone together within the other. Pages
that are held already, or that a prompt before it computes, cost nothing. Those of one priority count as
served in the order they came. Off unless asked for.

References: arXiv 2305.02440 for the cost of a prompt and of a token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.engine.batch import PAGE_TOKENS
from trimtab.errors import Busy

if TYPE_CHECKING:
    from trimtab.engine.sequence import Sequence
    from trimtab.machine.requests.model import RequestModel

LONGEST_RETRY_S = 60


@dataclass(frozen=True, slots=True)
class Objective:
    """What every admitted request should get.

    Parameters
    ----------
    model : fitted on this machine, with this model and engine
    ttft_s : seconds to the first token, waiting included; infinite for no limit
    tpot_s : seconds of each further token
    most_running : sequences that run together at most
    """

    model: RequestModel
    ttft_s: float = math.inf
    tpot_s: float = math.inf
    most_running: int = 64

    def check(self, sequence: Sequence, others: Collection[Sequence], holds: Callable[[bytes], bool]) -> None:
        """Whether a request can keep the objective beside `others`, all that run or wait.

        Parameters
        ----------
        holds : whether the page with this digest is in memory

        Raises
        ------
        Busy : it cannot; `retry_after_s` says when those before it have their first tokens
        """
        promised: set[bytes] = set()
        wait = sum(
            self._prompt_s(one, promised, holds)
            for one in others
            if one.age < sequence.age and len(one.tokens) == one.prompt_length
        )
        first = wait + self._prompt_s(sequence, promised, holds)
        if first > self.ttft_s:
            raise self._busy(
                f"its first token would take {first:.2f} s, and {self.ttft_s:g} s is the most", wait
            )
        if sequence.pooling:
            return
        contexts = [len(sequence.tokens), *(len(one.tokens) for one in others)][: self.most_running]
        step = self.model.step_s(contexts)
        if step > self.tpot_s:
            raise self._busy(
                f"a token would take {step * 1e3:.1f} ms beside {len(contexts) - 1} others, "
                f"and {self.tpot_s * 1e3:g} ms is the most",
                wait,
            )

    def _prompt_s(self, one: Sequence, promised: set[bytes], holds: Callable[[bytes], bool]) -> float:
        """Seconds of what is left of a prompt; adds its pages to those that are promised.

        What is computed is taken off in proportion, which flatters long prompts a little: their later tokens
        look at more positions.
        """
        digests, done = one.digests, one.computed  # the engine's thread goes on meanwhile
        page, last = done // PAGE_TOKENS, min(len(digests) - 1, (one.prompt_length - 1) // PAGE_TOKENS)
        if one.shares:
            while page < last and (digests[page + 1] in promised or holds(digests[page + 1])):
                page += 1
            promised.update(digests[1:])
        left = one.prompt_length - max(done, page * PAGE_TOKENS)
        alpha = self.model.fits[min(self.model.fits)].alpha
        return alpha.at(one.prompt_length) * max(0, left) / one.prompt_length

    def _busy(self, message: str, wait_s: float) -> Busy:
        busy = Busy(f"the request cannot keep the server's objective: {message}", "try again later")
        busy.retry_after_s = min(LONGEST_RETRY_S, max(1, math.ceil(wait_s)))
        return busy
