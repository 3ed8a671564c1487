"""Messages of a request as the model's chat template wants them, and the tokens it makes of them.

Shared by everything that takes a conversation; knows templates and tokens, nothing of sampling or answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trimtab.machine import spans
from trimtab.server.api.call_form import shown_by, woven
from trimtab.server.api.generation import INLINE_CHARACTERS
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from trimtab.server.api.schemas import Message
    from trimtab.server.call import Call
    from trimtab.server.served import Served

_RESERVED = {"self", "messages", "tools"}


async def conversation_tokens(
    served: Served,
    messages: Sequence[Message],
    variables: Mapping[str, Any] | None = None,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    call: Call | None = None,
) -> list[int]:
    """Token ids of a conversation.

    Parameters
    ----------
    variables : what a request's `chat_template_kwargs` hands to the template
    tools : descriptions of functions, for templates that show them to the model
    call : whose stages are recorded, when something records

    Raises
    ------
    ApiError : a message lacks its content, or a variable has a name that is taken
    UsageError : the model has no template, or its template refuses these messages
    """
    rendered = [for_template(message, index) for index, message in enumerate(messages)]
    if tools or any(message.tool_calls or message.role == "tool" for message in messages):
        template = served.tokenizer.tool_template
        if not shown_by(template):
            rendered, tools = woven(rendered, tools, template), None
    given = dict(variables or {})
    if wrong := _RESERVED & set(given):
        raise ApiError.invalid(
            "chat_template_kwargs", f"Invalid 'chat_template_kwargs': '{min(wrong)}' cannot be set here."
        )

    def render() -> list[int]:
        tokenizer = served.tokenizer
        text = tokenizer.chat(rendered, tools=tools, **given)
        if call is not None:
            call.mark(served, spans.TEMPLATE)
        tokens = tokenizer.encode(text, add_special=False)
        if call is not None:
            call.mark(served, spans.TOKENIZE)
        return tokens

    length = sum(len(str(message["content"])) for message in rendered)
    return render() if length <= INLINE_CHARACTERS else await asyncio.to_thread(render)


def for_template(turn: Message, index: int) -> dict[str, Any]:
    """A message as templates know it: plain text, and `system` where newer clients say `developer`."""
    content = turn.content
    if content is None:
        if turn.role != "assistant" or not (turn.tool_calls or turn.refusal):
            place = f"messages[{index}].content"
            message = f"Missing required parameter: '{place}'."
            raise ApiError.invalid(place, message, "missing_required_parameter")
        content = turn.refusal or ""
    elif not isinstance(content, str):
        content = "".join(part.text for part in content)
    made: dict[str, Any] = {
        "role": "system" if turn.role == "developer" else turn.role,
        "content": content,
    }
    if turn.role == "tool" and turn.tool_call_id is None:
        place = f"messages[{index}].tool_call_id"
        raise ApiError.invalid(place, f"Missing required parameter: '{place}'.", "missing_required_parameter")
    for name in ("name", "tool_call_id"):
        if (value := getattr(turn, name)) is not None:
            made[name] = value
    if turn.tool_calls is not None:
        made["tool_calls"] = [
            _call(call, f"messages[{index}].tool_calls[{i}]") for i, call in enumerate(turn.tool_calls)
        ]
    return made


def _call(call: Mapping[str, Any], here: str) -> dict[str, Any]:
    """An earlier call; templates want its arguments as an object, where they are one."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        place = f"{here}.function"
        raise ApiError.invalid(place, f"Invalid '{place}': expected an object with 'name' and 'arguments'.")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        place = f"{here}.function.arguments"
        raise ApiError.invalid(place, f"Invalid type for '{place}': expected a string.", "invalid_type")
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        parsed = None
    return {**call, "function": {**function, "arguments": parsed if isinstance(parsed, dict) else arguments}}
