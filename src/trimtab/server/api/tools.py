"""Functions that a chat request lets the model call: which, whether it must, and how its calls are answered.

What a call looks like to the model is `call_form.py`'s, how calls are found in a text `call_reader.py`'s. The
grammar made here holds from the first token when there must be a call, and otherwise from where one begins,
so that every call parses and its arguments match the function's schema.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trimtab.engine.grammar import Grammar
from trimtab.engine.json_schema import prepared
from trimtab.errors import UsageError
from trimtab.server.api import call_form
from trimtab.server.api.call_reader import CallReader, Piece
from trimtab.server.api.structured import refused
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from trimtab.engine.engine import Engine
    from trimtab.server.api.schemas import ChatRequest, Tool, ToolCall

_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_MODES = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class Calling:
    """How the answer to one request may call functions.

    Parameters
    ----------
    tools : those that the model is told of
    names : of those it may call
    required : it must call one
    most : calls in one answer
    """

    tools: tuple[Tool, ...]
    names: tuple[str, ...]
    required: bool
    most: int

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The functions as chat templates take them."""
        return [tool.model_dump(exclude_none=True) for tool in self.tools]

    def reader(self) -> CallReader:
        """Finds the calls in one answer."""
        return CallReader(self.names)

    def grammar(self, answer: Grammar | None, engine: Engine) -> Grammar:
        """The form of the whole answer, compiled.

        Parameters
        ----------
        answer : the form of an answer that calls nothing; None for any text

        Raises
        ------
        ApiError : a function's schema cannot be enforced, or the two forms cannot be had together
        UsageError : neither is wrong on its own, but together they are
        """
        schemas = {}
        for place, tool in self._allowed():
            with _blaming(place, tool):
                schemas[tool.function.name] = prepared(_parameters(tool.function.parameters))
        rules = call_form.rules(schemas, _answer_rule(answer), self.required, self.most)
        grammar = Grammar.lark(rules)
        try:
            engine.prepare(grammar)
        except UsageError:
            for place, tool in self._allowed():  # which of them is it?
                with _blaming(place, tool):
                    engine.prepare(Grammar.json_schema(schemas[tool.function.name]))
            raise
        return grammar

    def _allowed(self) -> list[tuple[int, Tool]]:
        return [(i, tool) for i, tool in enumerate(self.tools) if tool.function.name in self.names]


def calling_of(body: ChatRequest) -> Calling | None:
    """What a request says about calls; None when there can be none.

    Raises
    ------
    ApiError : two functions share a name, or the choice names none of them
    """
    tools = tuple(body.tools or ())
    choice = body.tool_choice
    if not tools:
        if choice not in (None, "none", "auto"):
            raise ApiError.invalid("tool_choice", "'tool_choice' is only allowed when 'tools' are specified.")
        if body.parallel_tool_calls is not None and body.tools is not None:
            message = "'parallel_tool_calls' is only allowed when 'tools' are specified."
            raise ApiError.invalid("parallel_tool_calls", message)
        return None
    names = [tool.function.name for tool in tools]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ApiError.invalid(f"tools[{place}].function.name", f"Two functions are named '{name}'.")
    mode, allowed = _choice(choice, names)
    if mode == "none":
        return None
    # A named function is called once, as at OpenAI.
    single = body.parallel_tool_calls is False or (isinstance(choice, dict) and choice["type"] == "function")
    most = 1 if single else call_form.MOST_CALLS
    return Calling(tools, tuple(allowed), mode == "required", most)


def answered(calling: Calling, text: str) -> tuple[str | None, list[ToolCall]]:
    """A whole answer's text outside of its calls, and the calls."""
    reader = calling.reader()
    pieces = reader.push(text) + reader.finish()
    calls: list[ToolCall] = []
    for piece in pieces:
        if piece.name is not None:
            calls.append(
                {"id": call_id(), "type": "function", "function": {"name": piece.name, "arguments": ""}}
            )
        elif piece.call >= 0:
            calls[piece.call]["function"]["arguments"] += piece.text
    said = "".join(piece.text for piece in pieces if piece.call < 0)
    return (said if said or not calls else None), calls


def call_id() -> str:
    """A name for one call, by which its answer will refer to it."""
    return f"call_{secrets.token_hex(12)}"


def call_deltas(reader: CallReader, text: str, last: bool) -> list[str]:
    """What a piece of an answer's text adds to it, each as the `delta` of an event, in JSON."""
    pieces = reader.push(text)
    if last:
        pieces += reader.finish()
    return [_delta(piece) for piece in pieces]


def _delta(piece: Piece) -> str:
    if piece.call < 0:
        return f'{{"content":{json.dumps(piece.text)}}}'
    if piece.name is None:
        body = f'{{"index":{piece.call},"function":{{"arguments":{json.dumps(piece.text)}}}}}'
    else:
        function = f'{{"name":{json.dumps(piece.name)},"arguments":""}}'
        body = f'{{"index":{piece.call},"id":"{call_id()}","type":"function","function":{function}}}'
    return f'{{"tool_calls":[{body}]}}'


def _choice(choice: Any, names: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The mode that a `tool_choice` asks for, and the functions it allows."""
    if choice is None:
        return "auto", names
    if isinstance(choice, str):
        if choice not in _MODES:
            known = ", ".join(f"'{mode}'" for mode in _MODES)
            raise ApiError.invalid(
                "tool_choice", f"Invalid value: {choice[:80]!r}. Supported values are: {known}."
            )
        return choice, names
    if not isinstance(choice, dict):
        message = "Invalid type for 'tool_choice': expected a string or an object."
        raise ApiError.invalid("tool_choice", message, "invalid_type")
    if choice.get("type") == "allowed_tools":
        inner = choice.get("allowed_tools")
        mode = inner.get("mode") if isinstance(inner, dict) else None
        listed = inner.get("tools") if isinstance(inner, dict) else None
        if mode not in ("auto", "required") or not isinstance(listed, list) or not listed:
            raise ApiError.invalid(
                "tool_choice.allowed_tools",
                "Invalid 'tool_choice.allowed_tools': expected 'mode' and 'tools'.",
            )
        return mode, [_named(one, names) for one in listed]
    return "required", [_named(choice, names)]


def _named(choice: Any, names: Sequence[str]) -> str:
    """The function that `{"type": "function", "function": {"name": ...}}` means."""
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(choice, dict) or choice.get("type") != "function" or not isinstance(name, str):
        message = "Invalid 'tool_choice': expected a function by its name."
        raise ApiError.invalid("tool_choice", message)
    if name not in names:
        message = (
            f"Invalid value for 'tool_choice': Tool choice '{name[:80]}' not found in 'tools' parameter."
        )
        raise ApiError.invalid("tool_choice", message)
    return name


def _blaming(place: int, tool: Tool) -> AbstractContextManager[None]:
    """Errors of a grammar name the function they are about."""
    what = f"Invalid schema for function '{tool.function.name}': "
    return refused(f"tools[{place}].function.parameters", what, "invalid_function_parameters")


def _parameters(schema: dict[str, Any] | None) -> str:
    """A function's parameters as a schema of one object."""
    if not schema:
        schema = _NO_PARAMETERS
    kind = schema.get("type")
    if kind is None and not {"$ref", "anyOf", "oneOf", "allOf"} & set(schema):
        schema = {"type": "object", **schema}
    elif kind not in (None, "object"):
        raise UsageError(
            f"schema must be a JSON Schema of 'type: \"object\"', got 'type: {json.dumps(kind)}'",
            param="grammar",
        )
    return json.dumps(_closed(schema), ensure_ascii=False)


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A function takes the parameters it names, unless its schema speaks of others."""
    combined = {"$ref", "allOf", "anyOf", "oneOf", "patternProperties", "unevaluatedProperties"}
    if "properties" in schema and "additionalProperties" not in schema and not combined & set(schema):
        return {**schema, "additionalProperties": False}
    return schema


def _answer_rule(answer: Grammar | None) -> str | None:
    if answer is None:
        return None
    if answer.kind == "json_object":
        return f"answer: %json {prepared(json.dumps({'type': 'object'}))}"
    if answer.kind == "json_schema":
        return f"answer: %json {prepared(answer.text)}"
    raise ApiError.invalid("tools", "'tools' go with a JSON answer or a free one only.")
