"""Query parameters, checked, and the page of a list they ask for; errors have the shape of all others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request


def text_query(request: Request, name: str, allowed: Sequence[str] = ()) -> str | None:
    """A text, one of `allowed` if there are any; None when it was not sent."""
    value = request.query_params.get(name)
    if value is not None and allowed and value not in allowed:
        listed = " or ".join(f"'{one}'" for one in allowed)
        raise ApiError.invalid(name, f"Invalid value for '{name}': {value[:80]!r}. Supported: {listed}.")
    return value


def whole_query(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A whole number from `low` to `high`."""
    value = request.query_params.get(name)
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
        message = f"Invalid '{name}': expected a whole number from {low} to {high}, but got {value[:80]!r}."
        raise ApiError.invalid(name, message)
    return int(value)


def listed(data: Sequence[Any], more: bool) -> Any:
    """One page of a list as OpenAI writes it.

    Parameters
    ----------
    data : its entries, each with an `id`
    more : others follow
    """
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }
