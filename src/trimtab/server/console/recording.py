"""Records a running server for some seconds: every stage of its requests, every operation of its steps.

For administrators only, one at a time. Until somebody asks, nothing is recorded and nothing is held; a
request's own stages are put down when it is over, out of the moments that are noted anyway.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from trimtab.machine import spans
from trimtab.server.call import call_of
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from trimtab.server.call import Call
    from trimtab.server.operations import Operations
    from trimtab.server.served import Loading

MOST_S = 120.0
USUAL_S = 5.0
MOST_REQUESTS = 4096
FORMATS = ("chrome", "recording")
_PATH = "/console/api/recording"
_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Stages:
    """Puts down the stages of every request that ends while something records."""

    def __init__(self) -> None:
        self.requests: deque[dict[str, Any]] = deque(maxlen=MOST_REQUESTS)

    def __call__(self, call: Call) -> None:
        if not call.number or not call.handles or not call.handles[0].recorder.on:
            return
        record, now = call.handles[0].recorder, time.monotonic()
        sequences = [handle.sequence for handle in call.handles]
        moments = [
            call.marked,
            *(
                min((at for at in found if at), default=0.0)
                for found in (
                    [one.submitted_at for one in sequences],
                    [one.started_at for one in sequences],
                    [one.first_at for one in sequences],
                )
            ),
            max(one.finished_at for one in sequences),
            now,
        ]
        parts = (spans.SUBMIT, spans.QUEUE, spans.PREFILL, spans.DECODE, spans.DELIVER)
        for stage, begin, end in zip(parts, moments, moments[1:], strict=False):
            if begin and end > begin:
                record.add(stage, begin, end, call.number)
        record.add(spans.REQUEST, call.began, now, call.number)
        self.requests.append(
            {
                "number": call.number, "id": call.id, "route": call.path, "status": call.status,
                "prompt_tokens": call.prompt_tokens, "output_tokens": call.output_tokens,
                "cached_tokens": sum(one.cached for one in sequences),
            }
        )  # fmt: skip


def add_routes(app: FastAPI, loading: Loading, operations: Operations) -> None:
    """Add the switch: POST records and answers with the recording, DELETE ends it early, GET tells."""
    stages = Stages()
    operations.listeners.append(stages)
    ending: list[asyncio.Event] = []

    def refuse_others(request: Request) -> None:
        if not call_of(request).tenant.admin:
            raise ApiError(403, "a recording is about everybody; it takes a key made with --admin")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise ApiError(403, "this address is for the server's own console")

    @app.get(_PATH, include_in_schema=False, response_model=None)
    async def state(request: Request) -> Response:
        refuse_others(request)
        return JSONResponse({"recording": bool(ending)}, 200, _PRIVATE)

    @app.delete(_PATH, include_in_schema=False, response_model=None)
    async def end(request: Request) -> Response:
        refuse_others(request)
        for event in ending:
            event.set()
        return JSONResponse({"recording": False}, 200, _PRIVATE)

    @app.post(_PATH, include_in_schema=False, response_model=None)
    async def record(request: Request, seconds: float = USUAL_S, format: str = "chrome") -> Response:
        refuse_others(request)
        if not 0 < seconds <= MOST_S:
            raise ApiError.invalid("seconds", f"Invalid 'seconds': {seconds:g}; it takes up to {MOST_S:g}.")
        if format not in FORMATS:
            allowed = " or ".join(FORMATS)
            raise ApiError.invalid("format", f"Invalid 'format': {format!r}; there is {allowed}.")
        if ending:
            raise ApiError(409, "this server is being recorded already")
        served = await loading.served()
        recorder = served.engine.recorder
        event = asyncio.Event()
        ending.append(event)
        try:
            stages.requests.clear()
            recorder.start()
            watcher = asyncio.create_task(_gone(request, event))
            try:
                await asyncio.wait_for(event.wait(), seconds)
            except TimeoutError:
                pass
            finally:
                watcher.cancel()
                recorder.stop()
            return await asyncio.to_thread(_answer, served, list(stages.requests), format)
        finally:
            ending.remove(event)


async def _gone(request: Request, event: asyncio.Event) -> None:
    """Nobody waits for the recording any more: it ends."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    event.set()


def _answer(served: Any, requests: list[dict[str, Any]], format: str) -> Response:
    from trimtab.engine import recording

    found = recording.take(served.engine, {"requests": requests})
    if format == "recording":
        headers = {**_PRIVATE, "Content-Disposition": 'attachment; filename="trimtab.recording"'}
        return Response(found.to_bytes(), headers=headers, media_type="application/zip")
    from trimtab.machine.dissect.chrome_trace import chrome_trace

    headers = {**_PRIVATE, "Content-Disposition": 'attachment; filename="trimtab-trace.json"'}
    return Response(chrome_trace(found), headers=headers, media_type="application/json")
