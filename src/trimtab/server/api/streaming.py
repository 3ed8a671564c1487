"""Server-sent events out of the engine's handles, and what happens when the reader goes away.

Knows handles and bytes; what an event says is decided in `chat.py` and `completions.py`. Nothing is sent
before the first event exists: a request that fails until then still gets an honest HTTP status.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi.responses import Response

from trimtab.errors import TrimtabError
from trimtab.machine import spans
from trimtab.server.errors import ApiError, error_answer, from_api, from_trimtab

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.types import Receive, Scope, Send

    from trimtab.engine.handle import Handle
    from trimtab.engine.output import Delta
    from trimtab.server.api.schemas import Usage
    from trimtab.server.pipeline.work import Job

CANCELLED = "the request was cancelled: the server is stopping or the client has left"
DONE = b"data: [DONE]\n\n"

_log = logging.getLogger("trimtab.server")


async def merged(handles: Sequence[Handle]) -> AsyncIterator[tuple[int, Delta]]:
    """The deltas of all handles as they come, each with the index of its handle.

    Raises
    ------
    ApiError : a handle was cancelled, because the server stops or the client went away
    """
    if len(handles) == 1:
        async for delta in handles[0]:
            if delta.finish_reason == "cancelled":
                raise cancelled(handles)
            yield 0, delta
        return
    queue: asyncio.Queue[tuple[int, Delta | BaseException | None]] = asyncio.Queue()

    async def pump(index: int) -> None:
        try:
            async for delta in handles[index]:
                queue.put_nowait((index, delta))
            queue.put_nowait((index, None))
        except Exception as error:
            queue.put_nowait((index, error))

    pumps = [asyncio.create_task(pump(index)) for index in range(len(handles))]
    try:
        running = len(handles)
        while running:
            index, item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                if item.finish_reason == "cancelled":
                    raise cancelled(handles)
                yield index, item
    finally:
        for task in pumps:
            task.cancel()


def cancelled(handles: Sequence[Handle]) -> ApiError:
    """What to answer when an output was ended from outside."""
    cause = next((handle.cause for handle in handles if handle.cause), "")
    return ApiError(504, cause, code="request_timeout") if cause else ApiError(503, CANCELLED)


@asynccontextmanager
async def cancelled_on_disconnect(receive: Receive, handles: Sequence[Handle | Job]) -> AsyncIterator[None]:
    """While inside, a client that goes away ends its generations; so does any error."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        for handle in handles:
            handle.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except BaseException:
        for handle in handles:
            handle.cancel()
        raise
    finally:
        watcher.cancel()


class EventStream(Response):
    """An answer of server-sent events whose first one is already known."""

    media_type = "text/event-stream"

    def __init__(
        self, first: bytes, events: AsyncIterator[bytes], handles: Sequence[Handle], headers: dict[str, str]
    ) -> None:
        # A reverse proxy that buffers would hold tokens back.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})
        del self.headers["content-length"]
        self.first = first
        self.events = events
        self.handles = handles

    @classmethod
    async def opened(
        cls,
        request: Request,
        events: AsyncIterator[bytes],
        handles: Sequence[Handle],
        headers: dict[str, str],
    ) -> EventStream:
        """Wait for the first event; whatever goes wrong before it is raised here."""
        async with cancelled_on_disconnect(request.receive, handles):
            first = await anext(events)
        return cls(first, events, handles, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record, number = self.handles[0].recorder, scope["state"]["call"].number
        began = record.begin()
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with cancelled_on_disconnect(receive, self.handles):
            await send({"type": "http.response.body", "body": self.first, "more_body": True})
            record.end(spans.WRITE, began, number)
            try:
                async for event in self.events:
                    began = record.begin()
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                    record.end(spans.WRITE, began, number)
            except Exception as error:
                await send({"type": "http.response.body", "body": _error_event(error), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _error_event(error: Exception) -> bytes:
    """A failure after the first event: the status is gone, so the stream itself says it."""
    if isinstance(error, ApiError):
        answer = from_api(error)
    elif isinstance(error, TrimtabError):
        answer = from_trimtab(error)
    else:
        _log.error("a stream failed", exc_info=error)
        answer = error_answer(500, "the server failed on this request; its log has the details")
    return b"data: " + bytes(answer.body) + b"\n\n"


class Frame:
    """What all events of one stream have in common, rendered once; the choices go between.

    Parameters
    ----------
    fields : id, object, created and the like
    usage : the request asked for usage: a last event will have it, and the others say null
    """

    def __init__(self, fields: Mapping[str, object], usage: bool) -> None:
        self.usage = usage
        self._head = "data: " + _compact(fields)[:-1] + ',"choices":['
        self._tail = '],"usage":null}\n\n' if usage else "]}\n\n"

    def around(self, choice: str) -> str:
        """The event of one choice, given as JSON."""
        return self._head + choice + self._tail

    def last(self, usage: Usage) -> bytes:
        """The event after all choices."""
        return f'{self._head}],"usage":{_compact(usage)}}}\n\n'.encode()


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
