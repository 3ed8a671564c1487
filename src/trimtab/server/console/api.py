"""What the console asks the server for: the live figures, recent requests, the machine.

These addresses serve the console that comes with them and are no part of the API. Content of requests leaves
only towards the tenant it belongs to, and without keys only towards a browser on this very machine.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

import trimtab
from trimtab.server.call import call_of
from trimtab.server.console.live import COLUMNS, PERIOD_S, Live
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from trimtab.engine.sampling import SamplingParams
    from trimtab.models.tokenizer import Tokenizer
    from trimtab.server.console.inspector import Entry, Inspector, Track
    from trimtab.server.served import Loading, Served

MOST_WATCHERS = 64
MOST_LISTED = 200
_SHORT_CHARACTERS = 96
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def add_routes(app: FastAPI, loading: Loading) -> Live:
    """Add the console's addresses; the figures are sampled from when the model is there."""
    live = Live()
    loading.on_success(lambda served: live.start(served.engine))
    boot = secrets.token_hex(8)
    watchers = [0]
    busy = asyncio.Lock()

    @app.get("/console/api/live", include_in_schema=False, response_model=None)
    async def watch() -> Response:
        if watchers[0] >= MOST_WATCHERS:
            raise ApiError(503, f"{MOST_WATCHERS} pages are looking already")

        async def events() -> AsyncIterator[str]:
            watchers[0] += 1
            try:
                async for event in _events(loading, live, boot):
                    yield event
            finally:
                watchers[0] -= 1

        headers = {**_PRIVATE, "X-Accel-Buffering": "no"}
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

    @app.get("/console/api/requests", include_in_schema=False, response_model=None)
    async def list_requests(request: Request) -> Response:
        served = await loading.served()
        now = served.engine.now
        found = _inspector(served).entries(_whose(request), MOST_LISTED)
        rows = [summary(entry, now) for entry in found]
        return JSONResponse({"mode": served.inspector and served.inspector.mode, "data": rows}, 200, _PRIVATE)

    @app.get("/console/api/requests/{request_id}", include_in_schema=False, response_model=None)
    async def one_request(request_id: str, request: Request) -> Response:
        served = await loading.served()
        entry = _entry(served, request_id, request)
        return JSONResponse(detail(entry, served, content=_may_read(served, request)), 200, _PRIVATE)

    @app.post("/console/api/requests/{request_id}/score", include_in_schema=False, response_model=None)
    async def score_request(request_id: str, request: Request, output: int = 0) -> Response:
        _refuse_other_sites(request)
        served = await loading.served()
        entry = _entry(served, request_id, request)
        if not _may_read(served, request):
            raise ApiError(403, "this server does not keep what requests say")
        if busy.locked():
            raise ApiError(409, "another request is being scored; try again in a moment")
        async with busy:
            await _score(served, entry, output, call_of(request).salt(None))
        return JSONResponse(detail(entry, served, content=True), 200, _PRIVATE)

    @app.get("/console/api/machine", include_in_schema=False, response_model=None)
    async def machine_page() -> Response:
        from trimtab.server.console import machine

        served = await loading.served()
        found = machine.facts(served) | {
            "limits": await asyncio.to_thread(machine.saved_limits, served),
            "hindrance": machine.hindrance(served),
        }
        return JSONResponse(found, 200, _PRIVATE)

    @app.post("/console/api/machine/probe", include_in_schema=False, response_model=None)
    async def probe_machine(request: Request) -> Response:
        from trimtab.server.console import machine

        _refuse_other_sites(request)
        served = await loading.served()
        if busy.locked():
            raise ApiError(409, "the machine is being measured already")
        async with busy:
            limits = await asyncio.to_thread(machine.measure_limits, served)
        return JSONResponse(limits, 200, _PRIVATE)

    return live


# --- live -------------------------------------------------------------------------------------------------


async def _events(loading: Loading, live: Live, boot: str) -> AsyncIterator[str]:
    """Who answers, ten minutes of history, then a row a second."""
    while not loading.ready:
        yield "event: loading\ndata: {}\n\n"
        await asyncio.sleep(PERIOD_S / 2)
    served = await loading.served()
    yield _event("hello", _hello(served, boot))
    number, rows = live.since(0)
    yield f"event: rows\ndata: [{','.join(rows)}]\n\n"
    while not live.over:
        await asyncio.sleep(PERIOD_S)
        number, rows = live.since(number)
        # Something must be sent each time, or a proxy takes silence for an end.
        yield f"event: rows\ndata: [{','.join(rows)}]\n\n" if rows else ": nothing new\n\n"
    yield "event: bye\ndata: {}\n\n"


def _hello(served: Served, boot: str) -> dict[str, Any]:
    engine = served.engine
    plan = served.plan
    return {
        "version": trimtab.__version__,
        "boot": boot,
        "model": served.name,
        "context": served.context,
        "columns": COLUMNS,
        "inspect": served.inspector.mode if served.inspector else "off",
        "pages_total": engine.runner.num_pages,
        "max_running": engine.settings.max_running,
        "max_waiting": engine.settings.max_waiting,
        "memory": dict(engine.runner.memory),
        "process": plan.base_bytes if plan else None,
        "promised": plan.promised_bytes if plan else None,
    }


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


# --- requests ---------------------------------------------------------------------------------------------


def summary(entry: Entry, now: float) -> dict[str, Any]:
    """One line of the list: several outputs count as one request."""
    tracks = _tracks(entry, now, content=False)
    outputs = sum(track.output_tokens for track in tracks)
    first = [track.first_s for track in tracks if track.first_s is not None]
    started = [track.started_s for track in tracks if track.started_s is not None]
    decoding = [(t.total_s - t.first_s, t.output_tokens - 1) for t in tracks if t.first_s is not None]
    gaps = sum(count for _, count in decoding)
    return {
        "id": entry.request_id,
        "created": entry.created,
        "tenant": entry.tenant,
        "status": _status([track.status for track in tracks]),
        "outputs": len(tracks),
        "prompt_tokens": sum(track.prompt_tokens for track in tracks[:: max(1, entry.choices)]),
        "cached_tokens": sum(track.cached_tokens for track in tracks[:: max(1, entry.choices)]),
        "output_tokens": outputs,
        "queue_s": min(started, default=None),
        "ttft_s": min(first, default=None),
        "tpot_s": sum(seconds for seconds, _ in decoding) / gaps if gaps > 0 else None,
        "total_s": max((track.total_s for track in tracks), default=0.0),
        "error": entry.error or next((track.error for track in tracks if track.error), None),
    }


def detail(entry: Entry, served: Served, *, content: bool) -> dict[str, Any]:
    """Everything about one request; its texts only with `content`."""
    now = served.engine.now
    tokenizer = served.tokenizer
    content = content and _inspector(served).mode == "full"
    prompts: list[dict[str, Any]] | None = None
    if content and entry.prompts is not None:
        prompts = [
            {"text": tokenizer.decode(prompt, skip_special=False), "tokens": len(prompt)}
            for prompt in entry.prompts
        ]
    kept = "full" if content else "meta"
    return {
        **summary(entry, now),
        "asked": entry.asked,
        "content": "trimmed" if entry.trimmed else kept,
        "prompts": prompts,
        "tracks": [_written(track, tokenizer, content) for track in _tracks(entry, now, content)],
    }


def _written(track: Track, tokenizer: Tokenizer, content: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "status": track.status,
        "prompt_tokens": track.prompt_tokens,
        "cached_tokens": track.cached_tokens,
        "output_tokens": track.output_tokens,
        "started_s": track.started_s,
        "first_s": track.first_s,
        "total_s": track.total_s,
        "error": track.error,
        "matched": track.matched,
        "times_ms": [round(moment * 1000, 2) for moment in track.times],
        "tokens": None,
        "texts": None,
        "logprobs": None,
        "top": None,
        "scored": track.scored,
    }
    if not content or track.tokens is None:
        return found
    from trimtab.server.api.logprobs import token_name

    found["tokens"] = track.tokens.tolist()
    found["texts"] = [token_name(token, tokenizer) for token in track.tokens]
    if track.logprobs is not None:
        found["logprobs"] = [_finite(value) for value in track.logprobs]
    if track.top_tokens is not None and track.top_logprobs is not None:
        names = {token: token_name(token, tokenizer)[:_SHORT_CHARACTERS] for token in set(track.top_tokens)}
        pairs = [
            [names[token], _finite(value)]
            for token, value in zip(track.top_tokens, track.top_logprobs, strict=True)
        ]
        width = len(pairs) // max(1, len(track.logprobs or ()))
        found["top"] = [pairs[at : at + width] for at in range(0, len(pairs), max(1, width))]
    return found


async def _score(served: Served, entry: Entry, index: int, salt: str) -> None:
    """Compute an output's log-probabilities with one prefill of prompt and output, behind other work."""
    if not 0 <= index < len(entry.tracks):
        most = len(entry.tracks) - 1
        raise ApiError.invalid("output", f"Invalid 'output': {index}; it has ended outputs 0 to {most}.")
    track = entry.tracks[index]
    if entry.prompts is None or track.tokens is None or not track.tokens:
        raise ApiError(409, "the tokens of this request are not kept any more")
    prompt = entry.prompts[index // max(1, entry.choices)]
    params = _scoring()
    handle = served.engine.submit([*prompt, *track.tokens], params, "score", salt, priority=_SCORE_PRIORITY)
    try:
        done = await handle.wait()
    except BaseException:
        handle.cancel()
        raise
    scores = [one for one in (done.prompt_logprobs or [])[len(prompt) :] if one is not None]
    if len(scores) != len(track.tokens):
        raise ApiError(503, "the scoring was cancelled")
    _inspector(served).score(entry, index, scores)


_SCORE_PRIORITY = 100


def _scoring() -> SamplingParams:
    from trimtab.engine.sampling import SamplingParams
    from trimtab.server.console.inspector import TOP

    return SamplingParams(max_tokens=0, prompt_logprobs=TOP)


def _tracks(entry: Entry, now: float, content: bool) -> list[Track]:
    if not entry.running:
        return entry.tracks
    from trimtab.server.console.inspector import running_track

    return [running_track(sequence, now, content) for sequence in entry.running]


def _status(statuses: list[str]) -> str:
    """Of several outputs: the one that says most."""
    for status in ("failed", "refused", "decode", "prefill", "queued", "cancelled", "length"):
        if status in statuses:
            return status
    return statuses[0] if statuses else "queued"


def _finite(logprob: float) -> float | None:
    from trimtab.server.api.logprobs import LOWEST

    return None if math.isnan(logprob) else round(max(logprob, LOWEST), 4)


# --- who may see what -------------------------------------------------------------------------------------


def _inspector(served: Served) -> Inspector:
    if served.inspector is None or served.inspector.mode == "off":
        raise ApiError(404, "this server remembers no requests; start it with --inspect meta or full")
    return served.inspector


def _entry(served: Served, request_id: str, request: Request) -> Entry:
    entry = _inspector(served).entry(request_id, _whose(request))
    if entry is None:
        raise ApiError(404, f"no request {request_id!r} among the last ones")
    return entry


def _whose(request: Request) -> str | None:
    """The tenant whose requests may be listed; None for all of them."""
    tenant = call_of(request).tenant
    return None if tenant.admin else tenant.name


def _may_read(served: Served, request: Request) -> bool:
    """Whether this request may see content.

    Without keys, nobody is known; then the address that the browser believes to speak to must be this
    machine. A page of another site that has pointed its own name here, and users behind a proxy, see figures
    only.
    """
    inspector = served.inspector
    if inspector is None or inspector.mode != "full":
        return False
    if call_of(request).tenant.name or inspector.chosen:
        return True
    host = request.headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower() in _LOOPBACK


def _refuse_other_sites(request: Request) -> None:
    """A page of another site must not make this server work; browsers say where a request comes from."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise ApiError(403, "this address is for the server's own console")
