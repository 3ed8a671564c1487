"""Every failure as an answer in OpenAI's shape: status, message, type, param and code.

Three sources: what pydantic says about a body, what trimtab's own errors say, and what the HTTP layer says.
This module words and shapes them; it decides nothing about requests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi.responses import Response

from trimtab.errors import Busy, TooLong, TrimtabError, UnknownName
from trimtab.server.api.schemas import ErrorAnswer

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

RETRY_AFTER_S = 1


class ApiError(Exception):
    """A refusal that is decided in the server itself.

    Parameters
    ----------
    status : HTTP status
    message : what was wrong, naming the value
    param : the offending field
    code : OpenAI's short name for the kind of error, when it has one

    `kind` is the error's type where that does not follow from the status, `headers` go with the answer.
    """

    kind: str | None = None
    headers: Mapping[str, str] | None = None

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    @classmethod
    def invalid(cls, param: str, message: str, code: str = "invalid_value") -> ApiError:
        """A field of the body with a value that cannot be."""
        return cls(400, message, param, code)


def error_answer(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: Any = None,
    kind: str | None = None,
) -> Response:
    """The JSON answer for one error."""
    answer: ErrorAnswer = {
        "error": {"message": message, "type": kind or _type_of(status), "param": param, "code": code}
    }
    return Response(json.dumps(answer), status, headers, media_type="application/json")


def from_api(error: ApiError) -> Response:
    """A refusal of the server itself."""
    return error_answer(error.status, error.message, error.param, error.code, error.headers, error.kind)


def from_trimtab(error: TrimtabError) -> Response:
    """One of trimtab's own errors, with its own status; the hint is part of the message."""
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    code, headers = None, None
    if isinstance(error, TooLong):
        code = "context_length_exceeded"
    elif isinstance(error, UnknownName) and error.param == "model":
        code = "model_not_found"
    elif isinstance(error, Busy):
        code, headers = "rate_limit_exceeded", {"Retry-After": str(error.retry_after_s or RETRY_AFTER_S)}
    return error_answer(error.http_status, message, error.param, code, headers)


def refusal(error: Exception, path: str) -> Response:
    """The answer to a request that was refused.

    Parameters
    ----------
    error : ApiError, TrimtabError or RequestValidationError; any other is raised again
    path : the address that was asked, because their oldest addresses word unknown fields differently
    """
    from fastapi.exceptions import RequestValidationError

    if isinstance(error, ApiError):
        return from_api(error)
    if isinstance(error, TrimtabError):
        return from_trimtab(error)
    if isinstance(error, RequestValidationError):
        return error_answer(400, *explain(error.errors(), unnamed=path in _UNNAMED))
    raise error


def install(app: FastAPI) -> None:
    """Make every failure of `app` answer in this shape."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    async def on_refusal(request: Request, error: Exception) -> Response:
        return refusal(error, request.url.path)

    async def on_http_error(request: Request, error: HTTPException) -> Response:
        message = {
            404: f"no such address: {request.method} {request.url.path}",
            405: f"{request.url.path} does not take {request.method}",
            400: "the body is not JSON in UTF-8",  # the only 400 that the HTTP layer itself raises
        }.get(error.status_code, str(error.detail))
        return error_answer(error.status_code, message, headers=error.headers)

    async def on_bug(request: Request, error: Exception) -> Response:
        return error_answer(500, "the server failed on this request; its log has the details")

    handlers: dict[Any, Any] = {
        ApiError: on_refusal,
        TrimtabError: on_refusal,
        RequestValidationError: on_refusal,
        HTTPException: on_http_error,
        Exception: on_bug,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


# Where OpenAI answers to an unknown field of the body itself without `param` and `code`.
_UNNAMED = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}


def explain(
    errors: Sequence[Mapping[str, Any]], *, unnamed: bool = False
) -> tuple[str, str | None, str | None]:
    """Message, param and code for what pydantic found; the first offending field speaks.

    Parameters
    ----------
    unnamed : unknown fields of the body itself are all named, but only in the message
    """
    first = errors[0]
    kind, loc = str(first["type"]), tuple(first["loc"])[1:]
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return f"the body is not valid JSON: {reason} at character {tuple(first['loc'])[1]}", None, None
    path, tags = _path_and_tags(loc)
    if not path:
        if kind == "missing":
            return "the body is empty; a JSON object is expected", None, None
        return "the body is not a JSON object sent with the header Content-Type: application/json", None, None
    if unnamed and kind == "extra_forbidden" and len(loc) == 1:
        places = [tuple(error["loc"])[1:] for error in errors if error["type"] == kind]
        unknown = [str(place[0]) for place in places if len(place) == 1]
        plural = "s" if len(unknown) > 1 else ""
        return f"Unrecognized request argument{plural} supplied: {', '.join(sorted(unknown))}", None, None
    if tags:
        alternatives = _alternatives(errors, path)
        if len(alternatives) > 1:
            forms = ", ".join(alternatives[:-1]) + " or " + alternatives[-1]
            return f"Invalid type for '{path}': expected {forms}.", path, "invalid_type"
    return _worded(kind, path, first)


def _worded(kind: str, path: str, error: Mapping[str, Any]) -> tuple[str, str, str]:
    got, ctx = error.get("input"), error.get("ctx", {})
    if kind == "missing":
        return f"Missing required parameter: '{path}'.", path, "missing_required_parameter"
    if kind == "extra_forbidden":
        return f"Unknown parameter: '{path}'.", path, "unknown_parameter"
    if kind == "literal_error":
        message = f"Invalid value for '{path}': {_short(got)}. Supported: {ctx['expected']}."
        return message, path, "invalid_value"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        message = f"Invalid '{path}': expected a value {words} {ctx[bound]}, but got {_short(got)}."
        side = "below_min" if kind.startswith("greater") else "above_max"
        return message, path, f"number_{side}_value"
    if kind == "too_long":
        message = f"Invalid '{path}': at most {ctx['max_length']} entries, but got {ctx['actual_length']}."
        return message, path, "array_above_max_length"
    if kind == "too_short":
        message = f"Invalid '{path}': at least {ctx['min_length']} entries, but got {ctx['actual_length']}."
        return message, path, "array_below_min_length"
    if kind.endswith(("_type", "_parsing")):
        wanted = _TYPES.get(kind.removesuffix("_type").removesuffix("_parsing"), "another type")
        return f"Invalid type for '{path}': expected {wanted}, but got {_type(got)}.", path, "invalid_type"
    return f"Invalid '{path}': {error.get('msg', kind)}.", path, "invalid_value"


_BOUNDS = {
    "greater_than_equal": ("ge", "of at least"), "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "of at most"), "less_than": ("lt", "less than"),
}  # fmt: skip
_TYPES = {
    "string": "a string", "int": "an integer", "float": "a number", "bool": "a boolean",
    "list": "an array", "dict": "an object", "model": "an object", "model_attributes": "an object",
}  # fmt: skip
_FORMS = {"str": "a string", "list[str]": "an array of strings"}


def _path_and_tags(loc: tuple[Any, ...]) -> tuple[str, bool]:
    """`messages[0].content`, and whether the error lies inside one form of a value that has several."""
    path, tags = "", False
    for part in loc:
        if isinstance(part, int):
            if not tags:
                path += f"[{part}]"
        elif tags or (path and (part in _FORMS or not re.fullmatch(r"[a-z_0-9]+", part))):
            # pydantic adds the form it tried, such as `list[str]`, to the place
            tags = True
        else:
            path += f".{part}" if path else str(part)
    return path, tags


def _alternatives(errors: Sequence[Mapping[str, Any]], path: str) -> list[str]:
    forms: list[str] = []
    for error in errors:
        loc = tuple(error["loc"])[1:]
        here, tags = _path_and_tags(loc)
        if here == path and tags:
            tag = next(p for i, p in enumerate(loc) if isinstance(p, str) and _path_and_tags(loc[: i + 1])[1])
            form = _form(tag)
            if form not in forms:
                forms.append(form)
    return forms


def _form(tag: str) -> str:
    """What a form is called in words: `list[str]` is an array of strings."""
    if tag in _FORMS:
        return _FORMS[tag]
    if "TextPart" in tag:
        return "an array of text parts"
    depth = tag.count("list[")
    inner = "objects" if "dict[" in tag else "strings" if "[str]" in tag else "integers"
    return "an " + "array of " + "arrays of " * (depth - 1) + inner


def _type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
