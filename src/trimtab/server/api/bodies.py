"""Request bodies of routes whose wire types are built on first use, with the errors that all routes have.

FastAPI builds the types of its routes when the server starts; those of endpoints that many servers are never
asked for would only cost time there. Nothing here knows a particular type.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from fastapi import Request

Body = TypeVar("Body", bound=BaseModel)


async def body_of(request: Request, kind: type[Body]) -> Body:
    """The request's JSON body as a `kind`.

    Raises
    ------
    RequestValidationError, HTTPException : it is none; worded by `errors.py`
    """
    raw = await request.body()
    if not raw:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "input": None}])
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise RequestValidationError([{"type": "model_attributes_type", "loc": ("body",), "input": None}])
    try:
        value = json.loads(raw)
    except json.JSONDecodeError as error:
        details = {"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}}
        raise RequestValidationError([details]) from None
    except (ValueError, RecursionError):  # not UTF-8, a number of thousands of digits, nested too deeply
        raise HTTPException(400) from None
    return checked(value, kind)


def checked(value: Any, kind: type[Body]) -> Body:
    """A JSON value as a `kind`.

    Raises
    ------
    RequestValidationError : it is none
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None
