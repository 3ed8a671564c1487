"""How it felt to read along: a score from 0 to 100 of speed and stability, never of what was said.

A reader takes 238 words a minute (Brysbaert, J. Memory and Language 109, 2019), 5.3 tokens a second at 4 of
them for 3 words. Waiting up to a second keeps the train of thought, ten seconds lose it (Miller 1968). So:

    response   1 up to one second of waiting for the first word, 0 from ten on, even between by its logarithm
    flow       share of the reading time in which the next word was already there
    success    share of the turns that ended without failure

    score = 100 * success * (response + flow) / 2, each the mean over the turns that were answered
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.evaluate.device.driver import Turn

READING_TOKENS_PER_S = 238 / 60 * 4 / 3
_QUICK_S, _LOST_S = 1.0, 10.0


@dataclass(frozen=True, slots=True)
class Experience:
    """The score and what it is made of, each 0 to 1; `stalled_s` is the reader's waiting in all."""

    score: float
    response: float
    flow: float
    success: float
    stalled_s: float


def experience(turns: Sequence[Turn]) -> Experience:
    """Of these turns; without any it is 0."""
    answered = [turn for turn in turns if turn.token_times_s and not turn.failure]
    if not turns or not answered:
        return Experience(0.0, 0.0, 0.0, 0.0, 0.0)
    response = statistics.mean(_response(wait_s(turn)) for turn in answered)
    stalls = [stalled_s(turn.token_times_s) for turn in answered]
    reading = [len(turn.token_times_s) / READING_TOKENS_PER_S for turn in answered]
    flow = sum(reading) / (sum(reading) + sum(stalls))
    success = len(answered) / len(turns)
    return Experience(100 * success * (response + flow) / 2, response, flow, success, sum(stalls))


def wait_s(turn: Turn) -> float:
    """From the question to the first piece."""
    return sum(event.duration_s for event in turn.events if event.name in ("request", "prefill"))


def stalled_s(times_s: Sequence[float]) -> float:
    """How long a reader, who begins with the first piece, waits for words that are not there yet."""
    stalled, reads_until = 0.0, times_s[0] if times_s else 0.0
    for moment in times_s:
        if moment > reads_until:
            stalled += moment - reads_until
            reads_until = moment
        reads_until += 1 / READING_TOKENS_PER_S
    return stalled


def _response(wait: float) -> float:
    if wait <= _QUICK_S:
        return 1.0
    return max(0.0, 1 - math.log(wait / _QUICK_S) / math.log(_LOST_S / _QUICK_S))
