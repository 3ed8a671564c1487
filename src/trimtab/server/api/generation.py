"""Submits a request's prompts to the engine and gathers what comes back, for both kinds of completion.

Knows handles, deltas and completions; nothing of how an answer is written.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

import trimtab
from trimtab.server.api.schemas import FinishReason, Usage
from trimtab.server.api.streaming import cancelled, cancelled_on_disconnect
from trimtab.server.call import USUAL_OUTPUT_TOKENS
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

    from trimtab.engine.handle import Handle
    from trimtab.engine.output import Completion, Delta, TokenLogprob
    from trimtab.engine.sampling import SamplingParams
    from trimtab.server.api.schemas import GenerationRequest
    from trimtab.server.call import Call
    from trimtab.server.served import Served

# Shorter prompts are tokenized in the event loop: faster than the way to a thread and back.
INLINE_CHARACTERS = 8192


@dataclass(frozen=True, slots=True)
class Submitted:
    """One request inside the engine: choice c of prompt p is handle p * choices + c."""

    prompts: Sequence[Sequence[int]]
    handles: Sequence[Handle]
    choices: int

    def prompt_of(self, index: int) -> Sequence[int]:
        return self.prompts[index // self.choices]

    @property
    def usage(self) -> Usage:
        """Tokens in and out so far; a prompt with several choices counts once."""
        prompt_tokens = sum(len(prompt) for prompt in self.prompts)
        completion_tokens = sum(handle.output_tokens for handle in self.handles)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": sum(handle.cached_tokens for handle in self.handles[:: self.choices])
            },
        }


def submit(
    call: Call,
    served: Served,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    answer_id: str,
    cache_salt: str | None = None,
) -> Submitted:
    """Hand every choice of every prompt to the engine, or none of them.

    Parameters
    ----------
    call : for whom; of a request, `call_of(request)`
    cache_salt : prefixes are shared only under equal ones, and only within the call's tenant

    Raises
    ------
    TooLong, Busy, UsageError : the engine refuses one; those already accepted are cancelled
    ApiError : beyond what the call's tenant may ask for
    """
    engine = served.engine
    outputs = len(prompts) * params.n
    most = min(served.max_prompts, engine.settings.max_running + engine.settings.max_waiting)
    if outputs > most:
        message = f"Invalid 'n': {len(prompts)} prompts with {params.n} choices; {most} outputs is the most."
        raise ApiError.invalid("n", message)
    longest = USUAL_OUTPUT_TOKENS if params.max_tokens is None else params.max_tokens
    call.admit(served, sum(map(len, prompts)), outputs * longest)
    caller = call.caller
    handles: list[Handle] = []
    salt = call.salt(cache_salt)
    try:
        # Equal prompts are computed once when all of them are there before the first step.
        with engine.hold() if outputs > 1 else nullcontext():
            for prompt in prompts:
                handles += engine.submit_choices(
                    prompt, params, request_id=answer_id, salt=salt, priority=call.priority, caller=caller
                )
                # Once its first output has started, a request is not refused any more.
                caller = caller._replace(patience_s=math.inf)
    except BaseException as error:
        for handle in handles:
            handle.cancel()
        if served.inspector is not None:
            served.inspector.refuse(answer_id, prompts, error, params, call.tenant.name)
        raise
    if served.inspector is not None:
        served.inspector.add(answer_id, prompts, handles, params, call.tenant.name)
    call.id = answer_id
    call.handles += handles
    return Submitted(prompts, handles, params.n)


async def finished(request: Request, submitted: Submitted) -> list[Completion]:
    """All outputs, when all are there.

    Raises
    ------
    ApiError : they were cancelled, because the server stops or the client has left
    """
    async with cancelled_on_disconnect(request.receive, submitted.handles):
        completions = [await handle.wait() for handle in submitted.handles]
    if any(completion.finish_reason == "cancelled" for completion in completions):
        raise cancelled(submitted.handles)
    return completions


def scored(output: Delta | Completion) -> list[TokenLogprob]:
    """Log-probabilities of the tokens that the text is made of: not of one that only ended it."""
    entries = output.logprobs or []
    return entries[:-1] if isinstance(output.matched, int) else entries


def reason(output: Completion) -> FinishReason:
    """Why the output ended, as the API calls it."""
    return "stop" if output.finish_reason == "stop" else "length"


class Origin(TypedDict):
    """Where an answer comes from; part of every one."""

    created: int
    model: str
    system_fingerprint: str


def origin(served: Served) -> Origin:
    """The fields that say when and by what an answer was made.

    The fingerprint changes with what could change a seeded answer: the release and the model.
    """
    mark = hashlib.sha256(f"{trimtab.__version__} {served.name}".encode()).hexdigest()[:12]
    return {"created": int(time.time()), "model": served.name, "system_fingerprint": f"fp_{mark}"}


def wants_usage(body: GenerationRequest) -> bool:
    """A stream is to end with an event that counts the tokens."""
    return body.stream_options is not None and bool(body.stream_options.include_usage)
