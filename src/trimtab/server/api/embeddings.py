"""POST /v1/embeddings: one vector for each text, the mean of its final hidden states at length 1."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi.responses import Response
from pydantic import Field
from typing_extensions import TypedDict

from trimtab.engine.embedding import Floats, checked_dimensions, unit
from trimtab.errors import Busy, TrimtabError
from trimtab.server.api.generation import INLINE_CHARACTERS
from trimtab.server.api.schemas import TokenId, Wire
from trimtab.server.api.streaming import cancelled, cancelled_on_disconnect
from trimtab.server.call import Call, call_of
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

    from trimtab.engine.handle import Handle
    from trimtab.server.served import Served

MAX_INPUTS = 2048  # OpenAI's


class EmbeddingsRequest(Wire):
    input: str | list[str] | list[TokenId] | list[list[TokenId]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(ge=1, lt=2**31, description="keep this many values")] = None

    # Extras that OpenAI does not have.
    cache_salt: Annotated[str | None, Field(max_length=256)] = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[
        int | None, Field(ge=-1, description="keep the last so many tokens; -1: what fits the context")
    ] = None

    # Without effect.
    user: str | None = None


class Embedding(TypedDict):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


async def create(request: Request, body: EmbeddingsRequest, served: Served) -> Response:
    """Answer one request, whatever the number of its texts."""
    served.check_name(body.model)
    dimensions = checked_dimensions(body.dimensions, served.engine.runner.config.hidden)
    prompts = await _prompts(body, served)
    call = call_of(request)
    call.id = f"embd-{secrets.token_hex(12)}"
    call.admit(served, sum(map(len, prompts)))
    handles: list[Handle] = []
    data: list[Embedding] = []
    async with cancelled_on_disconnect(request.receive, handles):
        async for mean in _means(call, served, prompts, handles, body.cache_salt):
            value = _encoded(unit(mean, dimensions), body.encoding_format)
            data.append({"object": "embedding", "index": len(data), "embedding": value})
    count = sum(len(prompt) for prompt in prompts)
    answer: Embeddings = {
        "object": "list",
        "data": data,
        "model": served.name,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }
    return Response(json.dumps(answer), headers={"x-request-id": call.id}, media_type="application/json")


async def _means(
    call: Call, served: Served, prompts: Sequence[Sequence[int]], handles: list[Handle], salt: str | None
) -> AsyncIterator[Floats]:
    """The mean of each prompt in order; only as many wait in the engine as can run together.

    Parameters
    ----------
    handles : everything submitted so far
    """
    engine = served.engine
    ahead, caller = engine.settings.max_running, call.caller
    for prompt in prompts:  # what cannot be is refused before anything runs
        try:
            engine.check_embedding(prompt)
        except TrimtabError as error:
            error.param = "input"
            raise
    for place in range(len(prompts)):
        while len(handles) < min(place + ahead, len(prompts)):
            try:
                handle = engine.submit_embedding(
                    prompts[len(handles)], call.id, call.salt(salt), priority=call.priority, caller=caller
                )
            except Busy:
                if len(handles) <= place:
                    raise  # nothing of this request is under way that could make room
                break
            # Once its first text has been taken, a request is not refused any more.
            caller = caller._replace(patience_s=math.inf)
            handles.append(handle)
            call.handles.append(handle)
        completion = await handles[place].wait()
        if completion.embedding is None:
            raise cancelled([handles[place]])
        yield completion.embedding


async def _prompts(body: EmbeddingsRequest, served: Served) -> list[list[int]]:
    """The texts as tokens, none of them empty."""
    given: Any = body.input
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if len(given) > MAX_INPUTS:
        message = f"Invalid 'input': at most {MAX_INPUTS} entries, but got {len(given)}."
        raise ApiError.invalid("input", message, "array_above_max_length")
    if not all(given) or not given:
        place = "" if not given or len(given) == 1 else f" at entry {given.index(type(given[0])())}"
        raise ApiError.invalid("input", f"Invalid 'input': it is empty{place}.")
    tokenizer, special = served.tokenizer, body.add_special_tokens is not False
    keep = body.truncate_prompt_tokens
    most = None if keep is None else served.context if keep == -1 else keep

    def encode() -> list[list[int]]:
        every = [tokenizer.encode(one, add_special=special) if isinstance(one, str) else one for one in given]
        return every if most is None else [tokens[max(0, len(tokens) - most) :] for tokens in every]

    length = sum(len(one) for one in given)
    return encode() if length <= INLINE_CHARACTERS else await asyncio.to_thread(encode)


def _encoded(vector: Floats, encoding: str | None) -> list[float] | str:
    if encoding != "base64":
        values: list[float] = vector.tolist()
        return values
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
