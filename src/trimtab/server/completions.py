"""POST /v1/completions: plain text or tokens in, continuations out."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi.responses import Response

from trimtab.engine.output import TokenLogprob
from trimtab.server.call import call_of
from trimtab.server.errors import ApiError
from trimtab.server.generation import (
    INLINE_CHARACTERS,
    Submitted,
    finished,
    origin,
    reason,
    scored,
    submit,
    wants_usage,
)
from trimtab.server.logprobs import completion_logprobs, text_length
from trimtab.server.sampling import refuse_unsupported, sampling_params
from trimtab.server.schemas import Completion, CompletionChoice, CompletionLogprobs
from trimtab.server.streaming import DONE, EventStream, Frame, merged

if TYPE_CHECKING:
    from fastapi import Request

    from trimtab.engine.output import Completion as Output
    from trimtab.server.schemas import CompletionRequest
    from trimtab.server.served import Served

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


async def create(request: Request, body: CompletionRequest, served: Served) -> Response:
    """Answer one completion request, streamed or whole."""
    served.check_name(body.model)
    refuse_unsupported(body)
    asked = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if asked == 0 and not body.echo:
        raise ApiError.invalid("max_tokens", "Invalid 'max_tokens': 0 goes with 'echo': true only.")
    params = sampling_params(
        body, max_tokens=asked, logprobs=body.logprobs, prompt_logprobs=body.logprobs if body.echo else None
    )
    prompts = await _prompts(body, served)

    answer_id = f"cmpl-{secrets.token_hex(12)}"
    submitted = submit(call_of(request), served, prompts, params, answer_id, body.cache_salt)
    headers = {"x-request-id": answer_id}
    writer = _Writer(served, submitted, bool(body.echo), body.logprobs)
    if body.stream:
        frame = Frame({"id": answer_id, "object": "text_completion", **origin(served)}, wants_usage(body))
        return await EventStream.opened(request, writer.events(frame), submitted.handles, headers)
    outputs = await finished(request, submitted)
    answer: Completion = {
        "id": answer_id,
        "object": "text_completion",
        **origin(served),
        "choices": [writer.choice(index, output) for index, output in enumerate(outputs)],
        "usage": submitted.usage,
    }
    return Response(json.dumps(answer), headers=headers, media_type="application/json")


async def _prompts(body: CompletionRequest, served: Served) -> list[list[int]]:
    """The prompts as tokens; an empty one becomes the model's own first token."""
    given: Any = body.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise ApiError.invalid("prompt", "Invalid 'prompt': it is empty.")
    tokenizer = served.tokenizer
    first = sorted(tokenizer.eos_ids)[:1] if tokenizer.bos_id is None else [tokenizer.bos_id]

    def encode() -> list[list[int]]:
        return [(tokenizer.encode(one) if isinstance(one, str) else one) or first for one in given]

    length = sum(len(one) for one in given)
    return encode() if length <= INLINE_CHARACTERS else await asyncio.to_thread(encode)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the choices of one request, with `echo` the prompt before each of them."""

    served: Served
    submitted: Submitted
    echo: bool
    logprobs: int | None

    def choice(self, index: int, output: Output) -> CompletionChoice:
        text, entries = output.text, scored(output)
        if self.echo:
            text, entries = self._prompt_text(index) + text, self._prompt_scored(index) + entries
        return {
            "index": index,
            "text": text,
            "logprobs": None if self.logprobs is None else self._logprobs(entries, 0),
            "finish_reason": reason(output),
        }

    async def events(self, frame: Frame) -> AsyncIterator[bytes]:
        begun: set[int] = set()
        offsets = [0] * len(self.submitted.handles)  # in characters, where the next token's text begins
        async for index, delta in merged(self.submitted.handles):
            text, entries = delta.text, scored(delta)
            if self.echo and index not in begun:
                begun.add(index)
                text, entries = self._prompt_text(index) + text, self._prompt_scored(index) + entries
            logprobs = None
            if entries and self.logprobs is not None:
                logprobs = self._logprobs(entries, offsets[index])
                offsets[index] += text_length(entries, self.served.tokenizer)
            if text or logprobs or delta.finish_reason:
                ending = delta.finish_reason
                choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": ending}
                yield frame.around(json.dumps(choice)).encode()
        if frame.usage:
            yield frame.last(self.submitted.usage)
        yield DONE

    def _prompt_text(self, index: int) -> str:
        return self.served.tokenizer.decode(self.submitted.prompt_of(index), skip_special=False)

    def _prompt_scored(self, index: int) -> list[TokenLogprob]:
        entries = self.submitted.handles[index].prompt_logprobs or []
        first = self.submitted.prompt_of(index)[0]
        return [TokenLogprob(first, math.nan) if entry is None else entry for entry in entries]

    def _logprobs(self, entries: Sequence[TokenLogprob], offset: int) -> CompletionLogprobs:
        return completion_logprobs(entries, self.served.tokenizer, offset, alternatives=bool(self.logprobs))
