"""A picture out of an HTTP request: plain bytes, base64 in JSON, or a form; and what is asked about it.

Knows HTTP and no pipeline. Everything here is the sender's choice, so everything is checked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from trimtab.server.api.bodies import body_of
from trimtab.server.api.schemas import Wire
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

LARGE_BYTES = 256 << 10
"""Longer texts are decoded in a thread, so that other requests go on."""


class PictureRequest(Wire):
    """The JSON form of a request."""

    image: Annotated[str, Field(min_length=1, description="base64, or a data URL")]
    model: str | None = None
    trace: bool = False
    deadline_ms: Annotated[float | None, Field(gt=0, le=3_600_000)] = None

    # Without effect.
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One picture, and what is wanted.

    Parameters
    ----------
    trace : tell where its time went
    deadline_s : after which nobody wants the answer; None leaves it to the server
    """

    body: bytes
    model: str | None = None
    trace: bool = False
    deadline_s: float | None = None


async def asked(request: Request) -> Asked:
    """Read a request.

    Raises
    ------
    ApiError, RequestValidationError, HTTPException : it holds no picture, or a wrong setting
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    trace = request.query_params.get("trace", "") in ("1", "true")
    deadline_s = _deadline(request.headers.get("x-deadline-ms"))
    if media == "application/json" or media.endswith("+json"):
        found = await body_of(request, PictureRequest)
        if found.deadline_ms is not None:
            deadline_s = found.deadline_ms / 1e3
        long = len(found.image) > LARGE_BYTES
        body = await asyncio.to_thread(_decoded, found.image) if long else _decoded(found.image)
        return Asked(body, found.model, found.trace or trace, deadline_s)
    if media == "multipart/form-data":
        return Asked(await _uploaded(request), None, trace, deadline_s)
    return Asked(await request.body(), None, trace, deadline_s)


def _decoded(text: str) -> bytes:
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ApiError.invalid("image", "Invalid 'image': a data URL must be in base64.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError.invalid("image", "Invalid 'image': it is not base64.") from None


async def _uploaded(request: Request) -> bytes:
    async with request.form(max_files=1, max_fields=8) as form:
        part = form.get("image") or form.get("file")
        if part is None or isinstance(part, str):
            raise ApiError.invalid("image", "Missing the picture: a file in the field 'image' is expected.")
        return await part.read()


def _deadline(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 3_600_000:
        raise ApiError.invalid("x-deadline-ms", f"Invalid 'x-deadline-ms': {text[:40]!r} is no time.")
    return value / 1e3
