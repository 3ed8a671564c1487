"""The input of a batch: one JSON object a line, read one at a time and never trusted.

Knows lines and what each must say; nothing of how a request is answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINES = 50_000  # OpenAI's
MAX_ERRORS = 100
MAX_ID_CHARACTERS = 512


class LineError(TypedDict):
    """What is wrong with a line, as a batch lists it; `line` counts from 1."""

    code: str
    message: str
    param: str | None
    line: int | None


class BadLine(Exception):
    """A line that is no request."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True)
class Line:
    """One request.

    Parameters
    ----------
    number : of the line in its file, from 1
    """

    number: int
    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a whole input is: how many requests, for which model, and what is wrong with it."""

    total: int
    model: str | None
    errors: list[LineError]


def read_lines(path: Path, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, each with its number; of a longer one only the beginning."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(max_line_bytes + 2):
            number += 1
            if len(line) > max_line_bytes + 1 and not line.endswith(b"\n"):
                rest = line
                while rest and not rest.endswith(b"\n"):
                    rest = file.readline(1 << 20)
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # as some editors begin a file
            if line.strip():
                yield number, line


def parse(number: int, line: bytes, endpoint: str, max_line_bytes: int) -> Line:
    """The request of a line.

    Raises
    ------
    BadLine : it is none, or not one for this endpoint
    """
    if len(line.rstrip(b"\r\n")) > max_line_bytes:
        raise BadLine("line_too_long", f"This line is longer than {max_line_bytes} bytes.")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine("invalid_json_line", "This line is not parseable as valid JSON.") from None
    if not isinstance(value, dict):
        raise BadLine("invalid_json_line", "This line is not a JSON object.")
    for name, kind, words in _FIELDS:
        if name not in value:
            message = f"Missing required parameter: '{name}'."
            raise BadLine("missing_required_parameter", message, name)
        if not isinstance(value[name], kind):
            raise BadLine("invalid_type", f"Invalid type for '{name}': expected {words}.", name)
    if unknown := sorted(set(value) - {name for name, _, _ in _FIELDS}):
        raise BadLine("unknown_parameter", f"Unknown parameter: '{unknown[0][:80]}'.", unknown[0][:80])
    custom_id = value["custom_id"]
    if not 1 <= len(custom_id) <= MAX_ID_CHARACTERS:
        message = f"Invalid 'custom_id': it must have 1 to {MAX_ID_CHARACTERS} characters."
        raise BadLine("invalid_custom_id", message, "custom_id")
    if value["method"] != "POST":
        raise BadLine("invalid_method", "Invalid value for 'method': only 'POST' is supported.", "method")
    if value["url"] != endpoint:
        message = f"The URL of this request does not match the endpoint of its batch, '{endpoint}'."
        raise BadLine("mismatched_url", message, "url")
    if value["body"].get("stream"):
        raise BadLine("invalid_stream", "Answers of a batch cannot be streamed.", "body.stream")
    return Line(number, custom_id, value["body"])


_FIELDS: tuple[tuple[str, type, str], ...] = (
    ("custom_id", str, "a string"),
    ("method", str, "a string"),
    ("url", str, "a string"),
    ("body", dict, "an object"),
)


def check(
    path: Path, endpoint: str, max_line_bytes: int, known: Callable[[str], bool], default: str
) -> Checked:
    """Read a whole input and say what it is.

    Parameters
    ----------
    known : whether this server has a model of this name
    default : the model of requests that name none
    """
    errors: list[LineError] = []
    seen: set[bytes] = set()
    model: str | None = None
    total = 0

    def wrong(number: int | None, code: str, message: str, param: str | None) -> None:
        if len(errors) < MAX_ERRORS:
            errors.append({"code": code, "message": message, "param": param, "line": number})

    for number, raw in read_lines(path, max_line_bytes):
        total += 1
        if total > MAX_LINES:
            wrong(None, "too_many_requests", f"A batch has at most {MAX_LINES} requests.", None)
            break
        try:
            line = parse(number, raw, endpoint, max_line_bytes)
            digest = blake2b(line.custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if digest in seen:
                message = f"The custom_id {line.custom_id[:80]!r} is that of another request of this batch."
                raise BadLine("duplicate_custom_id", message, "custom_id")
            seen.add(digest)
            asked = line.body.get("model", default)
            if not isinstance(asked, str) or not known(asked):
                message = f"The model {str(asked)[:80]!r} does not exist; this server has {default!r}."
                raise BadLine("model_not_found", message, "body.model")
            if model is not None and asked != model:
                message = f"The batch asks for {model!r} and here for {asked!r}; it must be one model."
                raise BadLine("mismatched_model", message, "body.model")
            model = asked
        except BadLine as error:
            wrong(number, error.code, error.message, error.param)
    if total == 0:
        wrong(None, "empty_file", "The batch has no request.", None)
    return Checked(total, model, errors)
