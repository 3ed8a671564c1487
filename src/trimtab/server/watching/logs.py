"""What goes to stderr: one line for people or one JSON object for machines, and one such for each request.

Nothing of what a request says is written unless the settings ask for it.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from trimtab.server.watching.outcome import outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from trimtab.models.tokenizer import Tokenizer
    from trimtab.server.call import Call
    from trimtab.server.settings import ServeSettings

ACCESS = "trimtab.access"
# Somebody asks for these every few seconds, and nobody wants to know.
_QUIET = frozenset({"/health", "/ready", "/metrics"})
_SAID = frozenset({"method", "path", "status"})  # by the message itself

_access = logging.getLogger(ACCESS)


def configure(settings: ServeSettings) -> None:
    """Send everything that is logged to stderr, in the form that is wanted."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    if settings.log_level != "debug":
        # Whoever connects decides what uvicorn warns of; what it gets wrong itself is an error.
        logging.getLogger("uvicorn").setLevel(logging.ERROR)


class TextLines(logging.Formatter):
    """`INFO trimtab.access: POST /v1/completions 200 id=… tenant=…`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        text = f"{record.levelname} {record.name}: {record.getMessage()}"
        if fields:
            told = {name: value for name, value in fields.items() if name not in _SAID and value is not None}
            text += "".join(f" {name}={_plain(value)}" for name, value in told.items())
        return text + _trace(self, record)


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message, and the fields of the message."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in getattr(record, "fields", {}).items() if value is not None}
        if trace := _trace(self, record):
            told["exception"] = trace.strip()
        return json.dumps(told, ensure_ascii=False, default=str)


class AccessLog:
    """Writes the line of every call that is over.

    Parameters
    ----------
    tokenizer : of the loaded model, when prompts and answers are to be logged too
    """

    def __init__(self, tokenizer: Callable[[], Tokenizer] | None = None) -> None:
        self._tokenizer = tokenizer

    def __call__(self, call: Call) -> None:
        level = logging.DEBUG if call.path in _QUIET else logging.INFO
        if not _access.isEnabledFor(level):
            return
        fields = fields_of(call)
        if self._tokenizer is not None and call.handles:
            fields |= _texts(call, self._tokenizer())
        _access.log(level, "%s %s %d", call.method, _plain(call.path), call.status, extra={"fields": fields})


def fields_of(call: Call) -> dict[str, Any]:
    """What the line tells; None where there is nothing to tell."""
    found = outcome_of(call)
    fields: dict[str, Any] = {
        "request_id": call.id,
        "tenant": call.tenant.name or None,
        "client": call.client or None,
        "method": call.method,
        "path": call.path,
        "status": call.status,
        "duration_ms": _ms(found.duration_s),
    }
    if call.handles:
        fields |= {
            "model": call.model,
            "prompt_tokens": found.prompt_tokens,
            "cached_tokens": found.cached_tokens,
            "output_tokens": found.output_tokens,
            "queue_ms": _ms(found.queue_s),
            "ttft_ms": _ms(found.first_s),
            "tpot_ms": _ms(found.tpot_s),
            "finish_reason": ",".join(dict.fromkeys(found.finish_reasons)),
        }
    return fields


def _texts(call: Call, tokenizer: Tokenizer) -> dict[str, Any]:
    prompts = {
        bytes(handle.sequence.tokens[: handle.prompt_tokens]): handle.sequence.tokens[: handle.prompt_tokens]
        for handle in call.handles
    }
    outputs = [handle.sequence.tokens[handle.prompt_tokens :] for handle in call.handles]
    return {
        "prompts": [tokenizer.decode(tokens.tolist(), skip_special=False) for tokens in prompts.values()],
        "outputs": [tokenizer.decode(tokens.tolist(), skip_special=False) for tokens in outputs],
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _plain(value: Any) -> str:
    """A value that stays in its place: what has spaces, quotes or line ends is quoted."""
    text = str(value)
    bare = text and all(letter.isprintable() and letter not in ' "=' for letter in text)
    return text if bare else json.dumps(text)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return f"\n{formatter.formatException(record.exc_info)}" if record.exc_info else ""
