"""How a call went, in tokens and seconds: what logs, metrics and traces all tell, worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.engine.sequence import Sequence
    from trimtab.server.call import Call


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call, over. Moments are seconds from its arrival, None where they never came.

    Parameters
    ----------
    submitted_s : the engine had it
    started_s : the first of its prompts entered a step
    first_s : the first token was there
    engine_s : the last token was there
    finish_reasons : one for each output
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    preempted: int
    duration_s: float
    submitted_s: float | None
    started_s: float | None
    first_s: float | None
    engine_s: float | None
    finish_reasons: tuple[str, ...]

    @property
    def queue_s(self) -> float | None:
        """Time in the queue."""
        return _between(self.submitted_s, self.started_s)

    @property
    def prefill_s(self) -> float | None:
        """From the first step to the first token."""
        return _between(self.started_s, self.first_s)

    @property
    def decode_s(self) -> float | None:
        """From the first token to the last."""
        return _between(self.first_s, self.engine_s)

    @property
    def tpot_s(self) -> float | None:
        """Seconds for each output token after the first; of several outputs together, as they share steps."""
        outputs = max(1, len(self.finish_reasons))
        if self.decode_s is None or self.output_tokens <= outputs:
            return None
        return self.decode_s * outputs / (self.output_tokens - outputs)


def outcome_of(call: Call) -> Outcome:
    """Read it off the call's handles."""
    sequences = [handle.sequence for handle in call.handles]
    return Outcome(
        prompt_tokens=call.prompt_tokens if sequences else 0,
        cached_tokens=sum(sequence.cached for sequence in sequences),
        output_tokens=call.output_tokens,
        preempted=sum(sequence.preempted for sequence in sequences),
        duration_s=max(0.0, call.ended - call.arrived),
        submitted_s=_first(call, [sequence.submitted_at for sequence in sequences]),
        started_s=_first(call, [sequence.started_at for sequence in sequences]),
        first_s=_first(call, [sequence.first_at for sequence in sequences]),
        engine_s=_last(call, [sequence.finished_at for sequence in sequences]),
        finish_reasons=tuple(map(_reason, sequences)),
    )


def _reason(sequence: Sequence) -> str:
    from trimtab.errors import Busy

    if sequence.error is not None:
        return "refused" if isinstance(sequence.error, Busy) else "failed"
    return sequence.finish or "cancelled"


def _first(call: Call, moments: list[float]) -> float | None:
    # The engine stamps by a clock that never goes back, as `call.began` is.
    there = [moment for moment in moments if moment]
    return max(0.0, min(there) - call.began) if there else None


def _last(call: Call, moments: list[float]) -> float | None:
    there = [moment for moment in moments if moment]
    return max(0.0, max(there) - call.began) if there else None


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
