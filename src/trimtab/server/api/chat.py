"""POST /v1/chat/completions: messages through the model's chat template, choices back."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi.responses import Response

from trimtab.machine import spans
from trimtab.server.api.generation import (
    Submitted,
    finished,
    origin,
    reason,
    scored,
    submit,
    wants_usage,
)
from trimtab.server.api.logprobs import chat_logprobs, prompt_logprobs
from trimtab.server.api.messages import conversation_tokens
from trimtab.server.api.sampling import refuse_unsupported, sampling_params
from trimtab.server.api.schemas import ChatChoice, ChatCompletion, ChatMessage
from trimtab.server.api.streaming import DONE, EventStream, Frame, merged
from trimtab.server.api.structured import grammar_of
from trimtab.server.api.tools import answered, call_deltas, calling_of
from trimtab.server.call import call_of
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

    from trimtab.engine.output import Completion
    from trimtab.server.api.schemas import ChatRequest
    from trimtab.server.api.tools import Calling
    from trimtab.server.served import Served


async def create(request: Request, body: ChatRequest, served: Served) -> Response:
    """Answer one chat request, streamed or whole."""
    call = call_of(request)
    call.mark(served, spans.PARSE)
    served.check_name(body.model)
    refuse_unsupported(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError.invalid("top_logprobs", "'top_logprobs' goes with 'logprobs': true.")
    asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    calling = calling_of(body)
    params = sampling_params(
        body,
        max_tokens=asked,
        grammar=await grammar_of(body, served, calling),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
    )
    if asked == 0:
        raise ApiError.invalid(
            "max_tokens", "Invalid 'max_tokens': expected a value of at least 1, but got 0."
        )
    tools = None if calling is None else calling.shown
    variables = body.chat_template_kwargs
    prompt = await conversation_tokens(served, body.messages, variables, tools=tools, call=call)

    answer_id = f"chatcmpl-{secrets.token_hex(12)}"
    submitted = submit(call, served, [prompt], params, answer_id, body.cache_salt)
    headers = {"x-request-id": answer_id}
    if body.stream:
        fields = {"id": answer_id, "object": "chat.completion.chunk", **origin(served)}
        events = _events(Frame(fields, wants_usage(body)), submitted, served, calling)
        return await EventStream.opened(request, events, submitted.handles, headers)
    outputs = await finished(request, submitted)
    made = origin(served)
    answer: ChatCompletion = {
        "id": answer_id,
        "object": "chat.completion",
        "created": made["created"],
        "model": made["model"],
        "system_fingerprint": made["system_fingerprint"],
        "choices": [
            _choice(i, output, served, bool(body.logprobs), calling) for i, output in enumerate(outputs)
        ],
        "usage": submitted.usage,
    }
    if body.prompt_logprobs is not None:
        entries = submitted.handles[0].prompt_logprobs or []
        answer["prompt_logprobs"] = prompt_logprobs(entries, body.prompt_logprobs, served.tokenizer)
    return Response(json.dumps(answer), headers=headers, media_type="application/json")


def _choice(
    index: int, output: Completion, served: Served, logprobs: bool, calling: Calling | None
) -> ChatChoice:
    message: ChatMessage = {"role": "assistant", "content": output.text, "refusal": None}
    finish = reason(output)
    if calling is not None:
        message["content"], calls = answered(calling, output.text)
        if calls:
            message["tool_calls"] = calls
            finish = "tool_calls" if finish == "stop" else finish
    return {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(scored(output), served.tokenizer) if logprobs else None,
        "finish_reason": finish,
    }


async def _events(
    frame: Frame, submitted: Submitted, served: Served, calling: Calling | None
) -> AsyncIterator[bytes]:
    begun: set[int] = set()
    readers = [calling.reader() for _ in submitted.handles] if calling is not None else None
    content = "null" if calling is not None and calling.required else '""'
    async for index, delta in merged(submitted.handles):
        text = ""
        if index not in begun:
            begun.add(index)
            text = frame.around(_chunk(index, f'{{"role":"assistant","content":{content},"refusal":null}}'))
        entries = scored(delta)
        finish: str | None = delta.finish_reason
        logprobs = json.dumps(chat_logprobs(entries, served.tokenizer)) if entries else "null"
        if readers is not None:
            for said in call_deltas(readers[index], delta.text, finish is not None):
                text += frame.around(_chunk(index, said, logprobs))
                logprobs = "null"
            if finish == "stop" and readers[index].calls:
                finish = "tool_calls"
        elif delta.text or entries:
            text += frame.around(_chunk(index, f'{{"content":{json.dumps(delta.text)}}}', logprobs))
        if finish is not None:
            text += frame.around(_chunk(index, "{}", finish=f'"{finish}"'))
        if text:
            yield text.encode()
    if frame.usage:
        yield frame.last(submitted.usage)
    yield DONE


def _chunk(index: int, delta: str, logprobs: str = "null", finish: str = "null") -> str:
    # By hand: this is written once a token, and `json.dumps` of the whole takes four times as long.
    return f'{{"index":{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{finish}}}'
