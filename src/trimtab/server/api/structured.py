"""The form that a request wants its answer in: `response_format`, and the fields vLLM's clients know.

Reads fields and makes one `Grammar` of them; compiles it in a thread, so that a hostile one delays nobody.
Calls of functions are `tools.py`'s, which hands its part of the grammar in.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trimtab.engine.grammar import Grammar
from trimtab.errors import UsageError
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from trimtab.server.api.schemas import GenerationRequest
    from trimtab.server.api.tools import Calling
    from trimtab.server.served import Served

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_KNOWN = ("text", "json_object", "json_schema")
_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
_OUTPUTS = ("json", "regex", "choice", "grammar", "json_object")


async def grammar_of(
    body: GenerationRequest, served: Served, calling: Calling | None = None
) -> Grammar | None:
    """What the answer must look like, compiled already; None when it is free.

    Raises
    ------
    ApiError : a field is wrong, there are several of them, or the grammar cannot be enforced
    """
    asked = _asked(body)
    engine = served.engine
    if calling is not None:
        answer = None if asked is None else asked[0]
        with refused("tools", "Invalid tools: "):
            return await asyncio.to_thread(calling.grammar, answer, engine)
    if asked is None:
        return None
    grammar, param, what = asked
    with refused(param, what):
        if not engine.prepared(grammar):
            await asyncio.to_thread(engine.prepare, grammar)
    return grammar


@contextmanager
def refused(param: str, what: str, code: str | None = None) -> Iterator[None]:
    """Say in OpenAI's words what the engine objects to."""
    try:
        yield
    except UsageError as error:
        if error.param != "grammar":
            raise
        raise ApiError(400, f"{what}{error.message}.", param, code) from None


def _asked(body: GenerationRequest) -> tuple[Grammar, str, str] | None:
    """The grammar, the field it came from, and how an error about it begins."""
    found: list[tuple[Grammar, str, str]] = []
    if (made := _response_format(body.response_format)) is not None:
        found.append((made[0], "response_format", made[1]))
    if body.structured_outputs is not None:
        given = {f"structured_outputs.{name}": value for name, value in body.structured_outputs.items()}
        if unknown := [name for name in body.structured_outputs if name not in _OUTPUTS]:
            place = f"structured_outputs.{unknown[0][:80]}"
            raise ApiError.invalid(place, f"Unknown parameter: '{place}'.", "unknown_parameter")
    else:
        given = {}
    given |= {name: getattr(body, name) for name in _GUIDED}
    for place, value in given.items():
        if value is not None and value is not False:
            found.append((_guided(place, value), place, f"Invalid '{place}': "))
    if len(found) > 1:
        places = " and ".join(f"'{place}'" for _, place, _ in found)
        raise ApiError.invalid(found[1][1], f"An answer has one form, but {places} are both given.")
    return found[0] if found else None


def _guided(place: str, value: Any) -> Grammar:
    kind = place.rpartition(".")[2].removeprefix("guided_")
    with refused(place, f"Invalid '{place}': ", "invalid_value"):
        if kind == "json_object" and value is True:
            return Grammar.json_object()
        if kind == "json" and isinstance(value, dict | str):
            return Grammar.json_schema(value)
        if kind == "choice" and isinstance(value, list):
            return Grammar.choice(value)
        if kind in ("regex", "grammar") and isinstance(value, str):
            return Grammar.regex(value) if kind == "regex" else Grammar.lark(value)
    raise ApiError.invalid(place, f"Invalid type for '{place}'.", "invalid_type")


def _response_format(wanted: dict[str, Any] | None) -> tuple[Grammar, str] | None:
    if wanted is None:
        return None
    here = "response_format"
    kind = _field(wanted, "type", str, here)
    if kind not in _KNOWN:
        known = ", ".join(f"'{name}'" for name in _KNOWN)
        raise ApiError.invalid(
            f"{here}.type", f"Invalid value: {kind[:80]!r}. Supported values are: {known}."
        )
    _closed(wanted, {"type", "json_schema"} if kind == "json_schema" else {"type"}, here)
    if kind == "text":
        return None
    if kind == "json_object":
        return Grammar.json_object(), f"Invalid '{here}': "
    here += ".json_schema"
    described = _field(wanted, "json_schema", dict, "response_format")
    _closed(described, {"name", "description", "schema", "strict"}, here)
    name = _field(described, "name", str, here)
    if not _NAME.fullmatch(name):
        raise ApiError.invalid(
            f"{here}.name",
            f"Invalid '{here}.name': string does not match pattern. Expected a string that matches the "
            "pattern '^[a-zA-Z0-9_-]+$' and has at most 64 characters.",
        )
    for optional, expected in (("description", str), ("strict", bool)):
        if described.get(optional) is not None:
            _field(described, optional, expected, here)
    schema = described.get("schema")
    if schema is None:
        return Grammar.json_object(), ""
    if not isinstance(schema, dict):
        place = f"{here}.schema"
        raise ApiError.invalid(place, f"Invalid type for '{place}': expected an object.", "invalid_type")
    what = f"Invalid schema for response_format '{name}': "
    with refused("response_format", what):
        return Grammar.json_schema(schema), what


def _field(holder: dict[str, Any], name: str, kind: type[Any], here: str) -> Any:
    """A field that must be there and of its type."""
    place = f"{here}.{name}"
    if holder.get(name) is None:
        raise ApiError.invalid(place, f"Missing required parameter: '{place}'.", "missing_required_parameter")
    if not isinstance(holder[name], kind):
        words = {str: "a string", dict: "an object", bool: "a boolean"}[kind]
        raise ApiError.invalid(
            place, f"Invalid type for '{place}': expected {words}, but got {json.dumps(holder[name])[:80]}.",
            "invalid_type",
        )  # fmt: skip
    return holder[name]


def _closed(holder: dict[str, Any], known: set[str], here: str) -> None:
    if unknown := [name for name in holder if name not in known]:
        place = f"{here}.{unknown[0][:80]}"
        raise ApiError.invalid(place, f"Unknown parameter: '{place}'.", "unknown_parameter")
