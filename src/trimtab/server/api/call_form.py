"""How a model writes the call of a function, how it is told of functions, and the grammar of its calls.

One form for all models: `<tool_call>` around `{"name": ..., "arguments": {...}}`, which most open models were
taught (Hermes, Qwen and those that follow them). A template that shows functions in this form is used as it
is. For every other model the system message describes them, and earlier calls are written out as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

BEGIN = "<tool_call>\n"
END = "\n</tool_call>"
TRIGGER = "<tool_call>"
MOST_CALLS = 16
"""Calls in one answer: a small model that may go on will."""

_ANSWER = ("<tool_response>\n", "\n</tool_response>")
_TOOLS_NAME = re.compile(r"\btools\b")


def head(name: str) -> str:
    """A call up to its arguments."""
    return f'{{"name": {json.dumps(name)}, "arguments": '


def written(name: str, arguments: str) -> str:
    """A whole call."""
    return f"{BEGIN}{head(name)}{arguments}}}{END}"


def shown_by(template: str | None) -> bool:
    """Whether a chat template shows functions and calls in this form by itself."""
    return template is not None and TRIGGER in template and bool(_TOOLS_NAME.search(template))


def rules(schemas: Mapping[str, str], answer: str | None, required: bool, most: int) -> str:
    """The Lark grammar of an answer that calls functions.

    Parameters
    ----------
    schemas : name of each function -> JSON schema of its arguments, as the grammar compiler takes it
    answer : rules for what may be said instead of a call, whose start is `answer`; None for any text
    required : there must be a call
    most : calls
    """
    heads = [
        f"call_{i}: {json.dumps(head(name))} %json {text}" for i, (name, text) in enumerate(schemas.items())
    ]
    lines = [
        f'body: "\\n" call "}}" {json.dumps(END)}',
        f'more: "\\n{TRIGGER}" body',
        "call: " + " | ".join(f"call_{i}" for i in range(len(heads))),
        *heads,
    ]
    rest = f"body more{{0,{most - 1}}}" if most > 1 else "body"
    if required:
        start = [f'start: "{TRIGGER}" {rest}']
    elif answer is None:
        # The text ends where a call begins: a lazy token takes as little as it can.
        start = [f"start: TEXT | trigger {rest}", f'trigger[lazy]: TEXT "{TRIGGER}"', "TEXT: /(.|\\n)*/"]
    else:
        start = [f'start: answer | "{TRIGGER}" {rest}', answer]
    return "\n".join([*start, *lines]) + "\n"


def described(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a model is told whose template says nothing of functions."""
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        "You may call functions to answer. These are the functions, as JSON:\n"
        f"{lines}\n"
        "To call one, write nothing but\n"
        f'{BEGIN}{{"name": "the function", "arguments": {{"its": "arguments"}}}}{END}'
    )


def woven(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, template: str | None
) -> list[dict[str, Any]]:
    """A conversation for a template that knows neither functions nor their answers: all of it is text."""
    made = [_plain(message) for message in messages]
    if not tools:
        return made
    text = described(tools)
    if "system" in (template or "system"):
        if made and made[0]["role"] == "system":
            made[0]["content"] = f"{made[0]['content']}\n\n{text}"
        else:
            made.insert(0, {"role": "system", "content": text})
    else:
        for message in made:
            if message["role"] == "user":
                message["content"] = f"{text}\n\n{message['content']}"
                break
    return made


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    role, content = message["role"], message["content"]
    if role == "tool":
        return {"role": "user", "content": f"{_ANSWER[0]}{content}{_ANSWER[1]}"}
    made = {"role": role, "content": content}
    if calls := message.get("tool_calls"):
        texts = [written(call["function"]["name"], _as_text(call["function"]["arguments"])) for call in calls]
        made["content"] = "\n".join([content, *texts] if content else texts)
    return made


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
