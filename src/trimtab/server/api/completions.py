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
from trimtab.machine import spans
from trimtab.server.api.generation import (
    INLINE_CHARACTERS,
    Submitted,
    finished,
    origin,
    reason,
    submit,
    wants_usage,
)
from trimtab.server.api.infill import infill_tokens
from trimtab.server.api.logprobs import completion_logprobs, prompt_logprobs, text_length
from trimtab.server.api.sampling import refuse_unsupported, sampling_params
from trimtab.server.api.schemas import Completion, CompletionChoice, CompletionLogprobs
from trimtab.server.api.streaming import DONE, EventStream, Frame, merged
from trimtab.server.api.structured import grammar_of
from trimtab.server.call import call_of
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

    from trimtab.engine.output import Completion as Output
    from trimtab.server.api.schemas import CompletionRequest
    from trimtab.server.served import Served

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


async def create(request: Request, body: CompletionRequest, served: Served) -> Response:
    """Answer one completion request, streamed or whole."""
    call = call_of(request)
    call.mark(served, spans.PARSE)
    served.check_name(body.model)
    refuse_unsupported(body)
    asked = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if asked == 0 and not body.echo and body.prompt_logprobs is None:
        raise ApiError.invalid("max_tokens", "Invalid 'max_tokens': 0 goes with 'echo': true only.")
    candidates = _candidates(body)
    choosing = candidates > (body.n or 1)
    echoed = body.logprobs if body.echo else None
    scores = [count for count in (body.prompt_logprobs, echoed) if count is not None]
    params = sampling_params(
        body,
        max_tokens=asked,
        logprobs=0 if body.logprobs is None and choosing else body.logprobs,
        prompt_logprobs=max(scores, default=None),
        choices=candidates,
        grammar=await grammar_of(body, served),
    )
    prompts = await _prompts(body, served)
    call.mark(served, spans.TOKENIZE)

    answer_id = f"cmpl-{secrets.token_hex(12)}"
    submitted = submit(call, served, prompts, params, answer_id, body.cache_salt)
    headers = {"x-request-id": answer_id}
    writer = _Writer(served, submitted, bool(body.echo), body.logprobs, body.prompt_logprobs)
    if body.stream:
        frame = Frame({"id": answer_id, "object": "text_completion", **origin(served)}, wants_usage(body))
        return await EventStream.opened(request, writer.events(frame), submitted.handles, headers)
    outputs = await finished(request, submitted)
    answer: Completion = {
        "id": answer_id,
        "object": "text_completion",
        **origin(served),
        "choices": writer.choices(outputs, body.n or 1),
        "usage": submitted.usage,
    }
    return Response(json.dumps(answer), headers=headers, media_type="application/json")


def _candidates(body: CompletionRequest) -> int:
    """Outputs to make for each prompt."""
    chosen = body.n or 1
    if body.best_of is None:
        return chosen
    if body.best_of < chosen:
        message = f"Invalid 'best_of': {body.best_of} is less than 'n', which is {chosen}."
        raise ApiError.invalid("best_of", message)
    if body.best_of > chosen and body.stream:
        raise ApiError.invalid("best_of", "'best_of' greater than 'n' does not go with 'stream': true.")
    return body.best_of


async def _prompts(body: CompletionRequest, served: Served) -> list[list[int]]:
    """The prompts as tokens; an empty one becomes the model's own first token."""
    given: Any = "" if body.prompt is None else body.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise ApiError.invalid("prompt", "Invalid 'prompt': it is empty.")
    tokenizer = served.tokenizer
    first = sorted(tokenizer.eos_ids)[:1] if tokenizer.bos_id is None else [tokenizer.bos_id]
    special = body.add_special_tokens is not False

    def encode() -> list[list[int]]:
        every = [tokenizer.encode(one, add_special=special) if isinstance(one, str) else one for one in given]
        if body.suffix:
            every = [infill_tokens(tokenizer, tokens, body.suffix) for tokens in every]
        if not all(every) and not first:
            message = "Invalid 'prompt': it is empty, and this model has no token that begins a text."
            raise ApiError.invalid("prompt", message)
        return [tokens or first for tokens in every]

    length = sum(len(one) for one in given)
    return encode() if length <= INLINE_CHARACTERS else await asyncio.to_thread(encode)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the choices of one request, with `echo` the prompt before each of them."""

    served: Served
    submitted: Submitted
    echo: bool
    logprobs: int | None
    prompt_logprobs: int | None

    def choices(self, outputs: Sequence[Output], chosen: int) -> list[CompletionChoice]:
        """The `chosen` most likely outputs of each prompt, the likeliest first when there are more."""
        made = self.submitted.choices
        choices: list[CompletionChoice] = []
        for first in range(0, len(outputs), made):
            places: Sequence[int] = range(first, first + made)
            if chosen < made:
                places = sorted(places, key=lambda place: -_mean_logprob(outputs[place]))[:chosen]
            for place in places:
                choices.append(self._choice(len(choices), place, outputs[place]))
        return choices

    def _choice(self, index: int, place: int, output: Output) -> CompletionChoice:
        text, entries = output.text, output.logprobs or []
        if self.echo:
            text, entries = self._prompt_text(place) + text, self._prompt_scored(place) + entries
        choice: CompletionChoice = {
            "index": index,
            "text": text,
            "logprobs": None if self.logprobs is None else self._logprobs(entries, 0),
            "finish_reason": reason(output),
        }
        if self.prompt_logprobs is not None:
            entries_of = self.submitted.handles[place].prompt_logprobs or []
            choice["prompt_logprobs"] = prompt_logprobs(
                entries_of, self.prompt_logprobs, self.served.tokenizer
            )
        return choice

    async def events(self, frame: Frame) -> AsyncIterator[bytes]:
        begun: set[int] = set()
        offsets = [0] * len(self.submitted.handles)  # in characters, where the next token's text begins
        async for index, delta in merged(self.submitted.handles):
            text, entries = delta.text, delta.logprobs or []
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
        most = self.logprobs or 0  # the entries may hold more, for `prompt_logprobs`
        return [
            TokenLogprob(first, math.nan) if entry is None else entry._replace(top=entry.top[:most])
            for entry in entries
        ]

    def _logprobs(self, entries: Sequence[TokenLogprob], offset: int) -> CompletionLogprobs:
        return completion_logprobs(entries, self.served.tokenizer, offset, alternatives=bool(self.logprobs))


def _mean_logprob(output: Output) -> float:
    """By which `best_of` chooses: the mean over an output's tokens, the one that ended it included."""
    entries = output.logprobs or []
    return sum(entry.logprob for entry in entries) / len(entries) if entries else 0.0
