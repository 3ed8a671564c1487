"""The events of a streamed response: typed, numbered, every part opened before it grows and closed after.

A failure after the first event is an event too: `response.failed`.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from trimtab.errors import TrimtabError
from trimtab.server.errors import ApiError
from trimtab.server.generation import Submitted, scored
from trimtab.server.logprobs import chat_logprobs
from trimtab.server.response_types import OutputMessage, OutputText, Response
from trimtab.server.responses import complete
from trimtab.server.streaming import merged

if TYPE_CHECKING:
    from trimtab.server.schemas import TokenLogprob
    from trimtab.server.served import Served

_log = logging.getLogger("trimtab.server")


class Writer:
    """Numbers events and writes them."""

    def __init__(self) -> None:
        self._number = 0

    def event(self, kind: str, **fields: Any) -> str:
        """One event as it goes over the wire."""
        number = self._number
        self._number += 1
        return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': number, **fields})}\n\n"

    def delta(self, item_id: str, place: int, text: str, scores: list[TokenLogprob]) -> str:
        """The event of new text, by hand: it is written once a token."""
        number = self._number
        self._number += 1
        return (
            'event: response.output_text.delta\ndata: {"type": "response.output_text.delta", '
            f'"sequence_number": {number}, "item_id": "{item_id}", "output_index": {place}, '
            f'"content_index": 0, "delta": {json.dumps(text)}, '
            f'"logprobs": {json.dumps(scores) if scores else "[]"}}}\n\n'
        )


class TextItem:
    """A message of the model that grows.

    Parameters
    ----------
    place : of the item in the output
    """

    def __init__(self, writer: Writer, place: int) -> None:
        self.id = f"msg_{secrets.token_hex(24)}"
        self._writer = writer
        self._place = place
        self._texts: list[str] = []
        self._scores: list[TokenLogprob] = []

    def opened(self) -> str:
        """The events that announce it."""
        event, where = (
            self._writer.event,
            {"item_id": self.id, "output_index": self._place, "content_index": 0},
        )
        item: OutputMessage = {
            "id": self.id, "type": "message", "status": "in_progress", "role": "assistant", "content": [],
        }  # fmt: skip
        part: OutputText = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return event("response.output_item.added", output_index=self._place, item=item) + event(
            "response.content_part.added", **where, part=part
        )

    def grown(self, text: str, scores: list[TokenLogprob]) -> str:
        """The event of more of it."""
        self._texts.append(text)
        self._scores += scores
        return self._writer.delta(self.id, self._place, text, scores)

    def closed(self, complete: bool) -> tuple[str, OutputMessage]:
        """The events that end it, and the whole item."""
        event, where = (
            self._writer.event,
            {"item_id": self.id, "output_index": self._place, "content_index": 0},
        )
        text = "".join(self._texts)
        part: OutputText = {
            "type": "output_text", "text": text, "annotations": [], "logprobs": self._scores,
        }  # fmt: skip
        item: OutputMessage = {
            "id": self.id, "type": "message", "status": "completed" if complete else "incomplete",
            "role": "assistant", "content": [part],
        }  # fmt: skip
        written = event("response.output_text.done", **where, text=text, logprobs=self._scores)
        written += event("response.content_part.done", **where, part=part)
        written += event("response.output_item.done", output_index=self._place, item=item)
        return written, item


async def events(
    record: Response,
    submitted: Submitted,
    served: Served,
    scores: bool,
    keep: Callable[[Response], Awaitable[None]],
) -> AsyncIterator[bytes]:
    """Everything a client is told about one answer while it is made.

    Parameters
    ----------
    record : the answer before its first word; complete after the last event
    scores : tell the tokens' log-probabilities
    keep : takes the complete record before the client learns that it is complete
    """
    writer = Writer()
    text = writer.event("response.created", response=record)
    text += writer.event("response.in_progress", response=record)
    begun = False
    try:
        item = TextItem(writer, 0)
        async for _, delta in merged(submitted.handles):
            if not begun:
                begun = True
                text += item.opened()
            entries = chat_logprobs(scored(delta), served.tokenizer)["content"] if scores else []
            if delta.text or entries:
                text += item.grown(delta.text, entries)
            if delta.finish_reason is not None:
                complete(record, submitted, delta.finish_reason)
                ending, done = item.closed(record["status"] == "completed")
                record["output"] = [done]
                await keep(record)
                text += ending + writer.event(f"response.{record['status']}", response=record)
            if text:
                yield text.encode()
                text = ""
    except Exception as error:
        if not begun:
            raise  # nothing was sent: the client gets an honest status
        record["status"], record["error"] = "failed", {"code": "server_error", "message": _words(error)}
        yield writer.event("response.failed", response=record).encode()


def _words(error: Exception) -> str:
    if isinstance(error, ApiError | TrimtabError):
        return error.message
    _log.error("a response failed", exc_info=error)
    return "the server failed on this request; its log has the details"
