"""Items of /v1/responses as the messages of a chat: one turn may be several items.

Knows the shapes of items and messages; nothing of templates, sampling or storage.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from trimtab.server.api.response_types import (
    CallItem,
    CallOutputItem,
    MessageItem,
    ReasoningItem,
    RefusalPart,
    TextPart,
)
from trimtab.server.api.schemas import Wire
from trimtab.server.errors import ApiError

Item = MessageItem | CallItem | CallOutputItem | ReasoningItem

_KINDS: dict[str, tuple[type[Item], str]] = {
    "message": (MessageItem, "msg"),
    "function_call": (CallItem, "fc"),
    "function_call_output": (CallOutputItem, "fco"),
    "reasoning": (ReasoningItem, "rs"),
}
_PARTS: dict[str, type[Wire]] = {
    "input_text": TextPart, "output_text": TextPart, "text": TextPart, "refusal": RefusalPart,
}  # fmt: skip


def read_items(given: str | Sequence[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The items of an input, each with an id, checked to be what this server can show a model.

    Raises
    ------
    RequestValidationError, ApiError : one is not
    """
    if given is None:
        return []
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    items = []
    for index, raw in enumerate(given):
        item = _checked(raw, index)
        prefix = _KINDS[item.type][1]
        items.append({**raw, "type": item.type, "id": item.id or f"{prefix}_{secrets.token_hex(16)}"})
    return items


def messages_of(items: Sequence[dict[str, Any]], instructions: str | None) -> list[dict[str, Any]]:
    """A conversation as the chat endpoint takes it; calls of one turn become one message."""
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    for index, raw in enumerate(items):
        item = _checked(raw, index)
        if isinstance(item, MessageItem):
            messages.append({"role": item.role, "content": _text(item.content, f"input[{index}].content")})
        elif isinstance(item, CallItem):
            call = {
                "id": item.call_id,
                "type": "function",
                "function": {"name": item.name, "arguments": item.arguments},
            }
            if messages and messages[-1]["role"] == "assistant":
                messages[-1].setdefault("tool_calls", []).append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif isinstance(item, CallOutputItem):
            text = _text(item.output, f"input[{index}].output")
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": text})
    return messages


def _checked(raw: dict[str, Any], index: int) -> Item:
    kind = raw.get("type") or ("message" if "role" in raw else None)
    if kind is None:
        place = f"input[{index}].type"
        raise ApiError.invalid(place, f"Missing required parameter: '{place}'.", "missing_required_parameter")
    if not isinstance(kind, str) or kind not in _KINDS:
        place, known = f"input[{index}].type", ", ".join(f"'{name}'" for name in _KINDS)
        message = f"Invalid value for '{place}': {str(kind)[:80]!r}. Supported: {known}."
        raise ApiError.invalid(place, message)
    item: Item = _validated(_KINDS[kind][0], {**raw, "type": kind}, ("input", index))
    if isinstance(item, MessageItem):
        _text(item.content, f"input[{index}].content")
    elif isinstance(item, CallOutputItem):
        _text(item.output, f"input[{index}].output")
    return item


def _text(content: str | Sequence[dict[str, Any]], place: str) -> str:
    """The text of a content: its parts joined."""
    if isinstance(content, str):
        return content
    texts = []
    for index, raw in enumerate(content):
        here = f"{place}[{index}]"
        kind = raw.get("type")
        if not isinstance(kind, str) or kind not in _PARTS:
            known = ", ".join(f"'{name}'" for name in _PARTS)
            message = f"Invalid value for '{here}.type': {str(kind)[:80]!r}. Supported: {known}."
            raise ApiError.invalid(f"{here}.type", message)
        part = _validated(_PARTS[kind], raw, (here,))
        texts.append(part.text if isinstance(part, TextPart) else part.refusal)
    return "".join(texts)


def _validated(kind: type[Any], raw: dict[str, Any], place: tuple[Any, ...]) -> Any:
    # Items that come back out of a client carry all fields it knows, most of them null.
    known = kind.model_fields
    try:
        return kind.model_validate({k: v for k, v in raw.items() if v is not None or k in known})
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError(
            [{**one, "loc": ("body", *place, *one["loc"])} for one in found]
        ) from None
