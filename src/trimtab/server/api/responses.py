"""/v1/responses: one turn of a conversation that the server can keep, whole or as typed events.

A request becomes a chat request and is answered as one; what is different is here: items instead of messages,
the record of an answer, and continuing a kept one. Events are `response_events.py`'s.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response as HttpResponse

from trimtab.errors import TrimtabError
from trimtab.server.api.bodies import checked
from trimtab.server.api.generation import Submitted, finished, scored, submit
from trimtab.server.api.logprobs import chat_logprobs
from trimtab.server.api.messages import conversation_tokens
from trimtab.server.api.queries import listed, text_query, whole_query
from trimtab.server.api.response_items import messages_of, read_items
from trimtab.server.api.response_types import (
    InputItems,
    InputTokenCount,
    ItemStatus,
    OutputCall,
    OutputMessage,
    Response,
    ResponseDeleted,
    ResponseRequest,
    ResponseUsage,
)
from trimtab.server.api.sampling import refuse_unsupported, sampling_params
from trimtab.server.api.schemas import ChatRequest
from trimtab.server.api.streaming import EventStream
from trimtab.server.api.structured import grammar_of
from trimtab.server.api.tools import answered, calling_of
from trimtab.server.call import call_of
from trimtab.server.errors import ApiError, explain
from trimtab.server.storage.state import state_of

if TYPE_CHECKING:
    import sqlite3

    from fastapi import Request

    from trimtab.engine.output import Completion
    from trimtab.server.api.schemas import Message, TokenLogprob
    from trimtab.server.api.tools import Calling
    from trimtab.server.served import Served
    from trimtab.server.storage.state import State


LONGEST_CHAIN = 1000
"""Answers that one conversation may have."""
DAY_S = 24 * 3600
SCORES = "message.output_text.logprobs"
KNOWN_INCLUDES = frozenset({
    SCORES, "reasoning.encrypted_content", "message.input_image.image_url", "file_search_call.results",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs", "web_search_call.results",
    "web_search_call.action.sources",
})  # fmt: skip

# What the fields of a chat request are called here.
_PARAMS = (
    (re.compile(r"messages\b.*|prompt"), "input"),
    (re.compile(r"max_(completion_)?tokens"), "max_output_tokens"),
    (re.compile(r"response_format(\.json_schema)?\b"), "text.format"),
    (re.compile(r"^(tools\[\d+\])\.function\b"), r"\1"),
    (re.compile(r"^tool_choice\.allowed_tools\b"), "tool_choice"),
)

_log = logging.getLogger("trimtab.server")


@dataclass(slots=True)
class Turn:
    """One request on its way: what it says, and where it continues.

    Parameters
    ----------
    items : of this request alone
    calling : how it may call functions; None when it cannot
    chat : the same request as the chat endpoint takes it, the conversation before it included
    """

    body: ResponseRequest
    items: list[dict[str, Any]]
    chat: ChatRequest
    calling: Calling | None
    scored: bool
    stored: bool


async def create(request: Request, body: ResponseRequest, served: Served) -> HttpResponse:
    """Answer one request, streamed or whole."""
    from trimtab.server.api.response_events import events

    served.check_name(body.model)
    with _renamed():
        turn = await _turn(request, body)
        refuse_unsupported(turn.chat)
        params = sampling_params(
            turn.chat,
            max_tokens=body.max_output_tokens,
            logprobs=(body.top_logprobs or 0) if turn.scored else None,
            grammar=await grammar_of(turn.chat, served, turn.calling),
        )
        prompt = await _prompt(turn, served)
        answer_id = f"resp_{secrets.token_hex(24)}"
        submitted = submit(call_of(request), served, [prompt], params, answer_id, body.cache_salt)
    record = new_record(answer_id, turn, served)
    headers = {"x-request-id": answer_id}

    async def keep(done: Response) -> None:
        if turn.stored:
            await _keep(request, turn, done)

    if body.stream:
        stream = events(record, submitted, served, turn, keep)
        return await EventStream.opened(request, stream, submitted.handles, headers)
    (output,) = await finished(request, submitted)
    complete(record, submitted, output.finish_reason)
    record["output"] = output_of(output, served, turn)
    await keep(record)
    return HttpResponse(json.dumps(record), headers=headers, media_type="application/json")


async def retrieve(request: Request, served: Served) -> HttpResponse:
    """A kept answer."""
    if request.query_params.get("stream") in ("true", "1"):
        raise ApiError.invalid(
            "stream", "Invalid 'stream': only answers that are being made can be streamed."
        )
    return _json(json.loads((await _own(request))["body"]))


async def delete(request: Request, served: Served) -> HttpResponse:
    """Forget a kept answer."""
    found = (await _own(request))["id"]
    await state_of(request).store.run(lambda c: c.execute("DELETE FROM responses WHERE id = ?", (found,)))
    answer: ResponseDeleted = {"id": found, "object": "response", "deleted": True}
    return _json(answer)


async def input_items(request: Request, served: Served) -> HttpResponse:
    """What a kept answer answers, newest first unless asked otherwise."""
    after, limit = text_query(request, "after"), whole_query(request, "limit", 20, 1, 100)
    ascending = text_query(request, "order", ("asc", "desc")) == "asc"
    items: list[dict[str, Any]] = json.loads((await _own(request))["input"])
    if not ascending:
        items.reverse()
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise ApiError.invalid("after", f"Invalid 'after': there is no {after[:80]!r}.")
        items = items[places[0] + 1 :]
    answer: InputItems = listed(items[:limit], len(items) > limit)
    return _json(answer)


async def count(request: Request, body: ResponseRequest, served: Served) -> HttpResponse:
    """How many tokens the model would be given."""
    served.check_name(body.model)
    with _renamed():
        turn = await _turn(request, body)
        tokens = await _render(turn, served, turn.chat.messages)
    answer: InputTokenCount = {"object": "response.input_tokens", "input_tokens": len(tokens)}
    return _json(answer)


def new_record(answer_id: str, turn: Turn, served: Served) -> Response:
    """An answer before its first word."""
    body = turn.body
    text = body.text
    record: Response = {
        "id": answer_id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": served.name,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": turn.stored,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": (text.format if text else None) or {"type": "text"}},
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
        "metadata": body.metadata or {},
    }
    if text is not None and text.verbosity is not None:
        record["text"]["verbosity"] = text.verbosity
    return record


def complete(record: Response, submitted: Submitted, reason: str) -> None:
    """Close the record of an answer whose output has ended."""
    record["completed_at"] = int(time.time())
    record["usage"] = usage_of(submitted)
    if reason == "length":
        record["status"], record["incomplete_details"] = "incomplete", {"reason": "max_output_tokens"}
    else:
        record["status"] = "completed"


def output_of(output: Completion, served: Served, turn: Turn) -> list[OutputMessage | OutputCall]:
    """An output as items: what the model says, then what it wants called."""
    status: ItemStatus = "incomplete" if output.finish_reason == "length" else "completed"
    text, calls = (output.text, []) if turn.calling is None else answered(turn.calling, output.text)
    items: list[OutputMessage | OutputCall] = []
    if text is not None:
        items.append(message_item(text, status))
        if turn.scored and not calls:
            entries = chat_logprobs(scored(output), served.tokenizer)["content"]
            items = [message_item(text, status, entries)]
    for call in calls:
        function = call["function"]
        items.append(call_item(call["id"], function["name"], function["arguments"], status))
    return items


def message_item(text: str, status: ItemStatus, scores: Sequence[TokenLogprob] = ()) -> OutputMessage:
    """What the model says."""
    return {
        "id": f"msg_{secrets.token_hex(24)}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": list(scores)}],
    }


def call_item(call: str, name: str, arguments: str, status: ItemStatus) -> OutputCall:
    """A call that the model wants made."""
    return {
        "id": f"fc_{secrets.token_hex(24)}",
        "type": "function_call",
        "status": status,
        "call_id": call,
        "name": name,
        "arguments": arguments,
    }


def usage_of(submitted: Submitted) -> ResponseUsage:
    """Tokens in and out, by the names they have here."""
    usage = submitted.usage
    cached = usage["prompt_tokens_details"]["cached_tokens"] if "prompt_tokens_details" in usage else 0
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


async def _turn(request: Request, body: ResponseRequest) -> Turn:
    for name in body.include or ():
        if name not in KNOWN_INCLUDES:
            known = ", ".join(f"'{one}'" for one in sorted(KNOWN_INCLUDES))
            raise ApiError.invalid(
                "include", f"Invalid value for 'include': {name[:80]!r}. Supported: {known}."
            )
    items = read_items(body.input)
    before = await _conversation(request, body.previous_response_id)
    if not items and not before:
        raise ApiError.invalid("input", "Missing required parameter: 'input'.", "missing_required_parameter")
    fields = {
        "messages": messages_of([*before, *items], body.instructions),
        "temperature": body.temperature, "top_p": body.top_p, "seed": body.seed, "stop": body.stop,
        "top_k": body.top_k, "min_p": body.min_p, "repetition_penalty": body.repetition_penalty,
        "chat_template_kwargs": body.chat_template_kwargs, "cache_salt": body.cache_salt,
        "parallel_tool_calls": body.parallel_tool_calls,
        "tools": [_chat_tool(tool, place) for place, tool in enumerate(body.tools or ())] or None,
        "tool_choice": _chat_choice(body.tool_choice),
        "response_format": _chat_format(body.text.format if body.text else None),
    }  # fmt: skip
    chat = checked({name: value for name, value in fields.items() if value is not None}, ChatRequest)
    stored = body.store is not False and state_of(request).response_days > 0
    if body.store and not stored:
        raise ApiError.invalid(
            "store", "Invalid 'store': this server keeps no responses (--response-days 0)."
        )
    return Turn(body, items, chat, calling_of(chat), SCORES in (body.include or ()), stored)


def _chat_tool(tool: dict[str, Any], place: int) -> dict[str, Any]:
    """A tool as the chat endpoint takes it."""
    if tool.get("type") != "function":
        here = f"tools[{place}].type"
        message = f"Invalid value for '{here}': {str(tool.get('type'))[:80]!r}. Supported: 'function'."
        raise ApiError.invalid(here, message, "unsupported_parameter")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _chat_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        tools = choice.get("tools")
        listed = [_chat_choice(one) for one in tools] if isinstance(tools, list) else tools
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": listed}}
    return choice


def _chat_format(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    if wanted is not None and wanted.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {k: v for k, v in wanted.items() if k != "type"}}
    return wanted


async def _prompt(turn: Turn, served: Served) -> list[int]:
    """The conversation's tokens; with `truncation: auto` without the oldest turns that do not fit."""
    chat, room = turn.chat, served.context - (turn.body.max_output_tokens or 1)
    tokens = await _render(turn, served, chat.messages)
    if turn.body.truncation != "auto" or len(tokens) <= room:
        return tokens
    head = [message for message in chat.messages if message.role in ("system", "developer")]
    rest = [message for message in chat.messages if message.role not in ("system", "developer")]
    # What is left must begin with what somebody asked; the fewest turns are left out that make room.
    starts = [place for place, message in enumerate(rest) if message.role == "user"][1:]
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        if len(await _render(turn, served, [*head, *rest[starts[middle] :]])) <= room:
            high = middle
        else:
            low = middle + 1
    if not starts:
        return tokens
    # Where not even the last question fits, the engine says by how much.
    return await _render(turn, served, [*head, *rest[starts[min(low, len(starts) - 1)] :]])


async def _render(turn: Turn, served: Served, messages: list[Message]) -> list[int]:
    tools = None if turn.calling is None else turn.calling.shown
    return await conversation_tokens(served, messages, turn.chat.chat_template_kwargs, tools=tools)


async def _conversation(request: Request, previous: str | None) -> list[dict[str, Any]]:
    """All items before a request, oldest first."""
    if previous is None:
        return []
    owner = call_of(request).tenant.name

    def read(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        turns: list[list[dict[str, Any]]] = []
        wanted: str | None = previous
        query = "SELECT previous, input, body FROM responses WHERE id = ? AND owner = ?"
        while wanted is not None and len(turns) < LONGEST_CHAIN:
            row = connection.execute(query, (wanted, owner)).fetchone()
            if row is None:
                raise ApiError(
                    400, f"Previous response with id '{wanted[:80]}' not found.", "previous_response_id",
                    "previous_response_not_found",
                )  # fmt: skip
            turns.append([*json.loads(row["input"]), *json.loads(row["body"])["output"]])
            wanted = row["previous"]
        return [item for turn in reversed(turns) for item in turn]

    return await state_of(request).store.run(read)


async def _keep(request: Request, turn: Turn, record: Response) -> None:
    """Make an answer one that can be continued. What cannot be kept although nobody asked says so."""
    state, owner = state_of(request), call_of(request).tenant.name
    values = (
        record["id"], owner, record["previous_response_id"], record["created_at"], json.dumps(turn.items),
        json.dumps(record),
    )  # fmt: skip

    def insert(connection: sqlite3.Connection) -> None:
        _make_room(connection, state)
        connection.execute(
            "INSERT INTO responses (id, owner, previous, created_at, input, body) VALUES (?, ?, ?, ?, ?, ?)",
            values,
        )

    try:
        await state.store.run(insert)
    except ApiError as error:
        if turn.body.store:
            raise
        _log.warning("a response was not kept: %s", error.message)
        record["store"] = False


def _make_room(connection: sqlite3.Connection, state: State) -> None:
    """Forget answers that are too old, and the oldest when all are too large."""
    connection.execute(
        "DELETE FROM responses WHERE created_at < ?", (int(time.time()) - state.response_days * DAY_S,)
    )
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    if (pages - free) * size > state.max_stored_bytes:
        oldest = "SELECT serial FROM responses ORDER BY serial LIMIT 100"
        connection.execute(f"DELETE FROM responses WHERE serial IN ({oldest})")


async def _own(request: Request) -> Any:
    """The row of the answer that the address names; one that is somebody else's is not there."""
    response_id, owner = request.path_params["response_id"], call_of(request).tenant.name
    query = "SELECT * FROM responses WHERE id = ? AND owner = ?"
    row = await state_of(request).store.run(lambda c: c.execute(query, (response_id, owner)).fetchone())
    if row is None:
        raise ApiError(404, f"Response with id '{response_id[:80]}' not found.", "response_id")
    return row


@contextmanager
def _renamed() -> Iterator[None]:
    """Name fields in errors as this endpoint calls them."""
    try:
        yield
    except RequestValidationError as error:
        message, param, code = explain(error.errors())
        raise _called_here(ApiError(400, message, param, code)) from None
    except (ApiError, TrimtabError) as error:
        raise _called_here(error) from None


def _called_here(error: ApiError | TrimtabError) -> ApiError | TrimtabError:
    """The same error about a field of this endpoint."""
    if error.param is not None:
        here = error.param
        for there, name in _PARAMS:
            here = there.sub(name, here, count=1)
        error.message = error.message.replace(f"'{error.param}'", f"'{here}'")
        error.param = here
    if isinstance(error, TrimtabError):
        error.hint = error.hint.replace("`max_tokens`", "`max_output_tokens`")
    return error


def _json(answer: Any) -> HttpResponse:
    return HttpResponse(json.dumps(answer), media_type="application/json")
