"""The events of a streamed response: typed, numbered, every part opened before it grows and closed after.

A failure after the first event is an event too: `response.failed`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from trimtab.errors import TrimtabError
from trimtab.server.api.generation import Submitted, scored
from trimtab.server.api.logprobs import chat_logprobs
from trimtab.server.api.response_types import ItemStatus, OutputCall, OutputMessage, Response
from trimtab.server.api.responses import Turn, call_item, complete, message_item
from trimtab.server.api.streaming import merged
from trimtab.server.api.tools import call_id
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from trimtab.engine.output import Delta
    from trimtab.server.api.call_reader import Piece
    from trimtab.server.api.schemas import TokenLogprob
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
        self._event = writer.event
        self._delta = writer.delta
        self._place = place
        self._item = message_item("", "in_progress")
        self._where = {"item_id": self._item["id"], "output_index": place, "content_index": 0}
        self._texts: list[str] = []
        self._scores: list[TokenLogprob] = []

    def opened(self) -> str:
        """The events that announce it."""
        item, part = {**self._item, "content": []}, self._item["content"][0]
        added = self._event("response.output_item.added", output_index=self._place, item=item)
        return added + self._event("response.content_part.added", **self._where, part=part)

    def grown(self, text: str, scores: list[TokenLogprob]) -> str:
        """The event of more of it."""
        self._texts.append(text)
        self._scores += scores
        return self._delta(self._item["id"], self._place, text, scores)

    def closed(self, status: ItemStatus) -> tuple[str, OutputMessage]:
        """The events that end it, and the whole item."""
        item, text = self._item, "".join(self._texts)
        part = item["content"][0]
        item["status"], part["text"], part["logprobs"] = status, text, self._scores
        written = self._event("response.output_text.done", **self._where, text=text, logprobs=self._scores)
        written += self._event("response.content_part.done", **self._where, part=part)
        return written + self._event("response.output_item.done", output_index=self._place, item=item), item


class CallItem:
    """A call of a function whose arguments grow."""

    def __init__(self, writer: Writer, place: int, name: str) -> None:
        self._event = writer.event
        self._place = place
        self._item = call_item(call_id(), name, "", "in_progress")
        self._where = {"item_id": self._item["id"], "output_index": place}
        self._arguments: list[str] = []

    def opened(self) -> str:
        """The event that announces it."""
        return self._event("response.output_item.added", output_index=self._place, item=self._item)

    def grown(self, text: str) -> str:
        """The event of more of its arguments."""
        self._arguments.append(text)
        return self._event("response.function_call_arguments.delta", **self._where, delta=text)

    def closed(self, status: ItemStatus) -> tuple[str, OutputCall]:
        """The events that end it, and the whole item."""
        item = self._item
        item["status"], item["arguments"] = status, "".join(self._arguments)
        written = self._event(
            "response.function_call_arguments.done",
            **self._where,
            name=item["name"],
            arguments=item["arguments"],
        )
        return written + self._event("response.output_item.done", output_index=self._place, item=item), item


class Items:
    """The output as it grows: one open item at a time.

    Parameters
    ----------
    scores : tell the log-probabilities of the text
    """

    def __init__(self, writer: Writer, served: Served, turn: Turn) -> None:
        self.done: list[OutputMessage | OutputCall] = []
        self._writer = writer
        self._tokenizer = served.tokenizer
        self._scored = turn.scored
        self._reader = None if turn.calling is None else turn.calling.reader()
        self._open: TextItem | CallItem | None = None
        self._held: list[TokenLogprob] = []  # scores of text that is not told yet

    def take(self, delta: Delta) -> str:
        """The events of one more piece of the output."""
        if self._scored:
            self._held += chat_logprobs(scored(delta), self._tokenizer)["content"]
        if self._reader is None:
            return self._text(delta.text) if delta.text or self._held else ""
        pieces = self._reader.push(delta.text)
        if delta.finish_reason is not None:
            pieces += self._reader.finish()
        return "".join([self._piece(piece) for piece in pieces])

    def end(self, status: ItemStatus) -> str:
        """The events of the end; an output without anything is an empty message."""
        written = "" if self._open is not None or self.done else self._text("")
        return written + self._close(status)

    def _piece(self, piece: Piece) -> str:
        if piece.call < 0:
            return self._text(piece.text)
        self._held = []  # of how a call is written, which nobody sees
        if piece.name is not None:
            return self._opened(CallItem(self._writer, self._next(), piece.name))
        return self._open.grown(piece.text) if isinstance(self._open, CallItem) else ""

    def _text(self, text: str) -> str:
        written = ""
        if not isinstance(self._open, TextItem):
            written = self._opened(TextItem(self._writer, self._next()))
        scores, self._held = self._held, []
        if isinstance(self._open, TextItem) and (text or scores):
            written += self._open.grown(text, scores)
        return written

    def _opened(self, item: TextItem | CallItem) -> str:
        written = self._close("completed")
        self._open = item
        return written + item.opened()

    def _close(self, status: ItemStatus) -> str:
        if self._open is None:
            return ""
        written, item = self._open.closed(status)
        self.done.append(item)
        self._open = None
        return written

    def _next(self) -> int:
        """The place of the item that opens now."""
        return len(self.done) + (self._open is not None)


async def events(
    record: Response,
    submitted: Submitted,
    served: Served,
    turn: Turn,
    keep: Callable[[Response], Awaitable[None]],
) -> AsyncIterator[bytes]:
    """Everything a client is told about one answer while it is made.

    Parameters
    ----------
    record : the answer before its first word; complete after the last event
    keep : takes the complete record before the client learns that it is complete
    """
    writer = Writer()
    items = Items(writer, served, turn)
    text = writer.event("response.created", response=record)
    text += writer.event("response.in_progress", response=record)
    begun = False
    try:
        async for _, delta in merged(submitted.handles):
            text += items.take(delta)
            if delta.finish_reason is not None:
                complete(record, submitted, delta.finish_reason)
                text += items.end("completed" if record["status"] == "completed" else "incomplete")
                record["output"] = items.done
                await keep(record)
                text += writer.event(f"response.{record['status']}", response=record)
            if text:
                begun = True
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
