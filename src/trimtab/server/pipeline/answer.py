"""POST /v1/ocr and /v1/vision: one picture through the pipeline, and the answer about it.

The time of a request is noted from its first byte to its last one: the account in the answer ends where the
answer is written, the one of the console and `/metrics` where it has been sent.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastapi.responses import Response
from typing_extensions import TypedDict

from trimtab.server.api.streaming import cancelled_on_disconnect
from trimtab.server.call import call_of
from trimtab.server.pipeline.request import asked
from trimtab.server.pipeline.runtime import TooLate
from trimtab.server.pipeline.work import Job

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.types import Receive, Scope, Send

    from trimtab.server.pipeline.served import ServedPipeline
    from trimtab.server.settings import ServeSettings

_SLACK_S = 0.5


class Timing(TypedDict):
    """Where a request's time went; `cpu_ms` is processor time, which alone may be added over requests."""

    total_ms: float
    stages_ms: dict[str, float]
    cpu_ms: dict[str, float]


class Found(TypedDict, total=False):
    """One crop: its box, clockwise from its top left, in pixels of the upright picture."""

    box: list[list[float]]
    box_score: float
    turned: bool
    text: str
    score: float


class PictureAnswer(TypedDict, total=False):
    """What a pipeline found in a picture."""

    id: str
    object: str
    created: int
    model: str
    width: int
    height: int
    results: list[Found]
    timing: Timing


async def create(request: Request, served: ServedPipeline, settings: ServeSettings) -> Response:
    """Answer one request."""
    call = call_of(request)
    call.id = f"img-{secrets.token_hex(12)}"
    wanted = await asked(request)
    read_at = time.monotonic()
    served.check_name(wanted.model)
    call.model = served.name
    call.check_model(served)  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not over.done():
            over.set_result(None)

    def tell(job: Job) -> None:
        with suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(settle)

    job = served.pipeline.submit(
        wanted.body, tell, began=call.began, deadline_s=wanted.deadline_s, tenant=call.tenant.name,
        most_each=settings.max_queue_per_key, patience_s=call.patience_s,
    )  # fmt: skip
    call.job = job
    job.trace.add("recv", call.began, read_at)
    job.trace.add("parsed", read_at, job.queued_at)
    async with cancelled_on_disconnect(request.receive, [job]):
        try:
            await asyncio.wait_for(over, max(0.0, job.deadline - time.monotonic()) + _SLACK_S)
        except TimeoutError:
            raise TooLate("the picture was not through by its deadline", "send fewer at a time") from None
    if job.error is not None:
        raise job.error
    answer: PictureAnswer = {
        "id": call.id, "object": "picture", "created": int(time.time()), "model": served.name,
        "width": job.header.upright[0], "height": job.header.upright[1],
        "results": found_in(job, served.pipeline.spec.gives),
    }  # fmt: skip
    if wanted.trace:
        now = time.monotonic()
        job.trace.add("answer", job.traced_at, now)
        answer["timing"] = {
            "total_ms": _ms(now - call.began),
            "stages_ms": {name: _ms(value) for name, value in job.trace.budget().items()},
            "cpu_ms": {name: _ms(value) for name, value in job.trace.cpu_s.items()},
        }
    content = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
    return Answered(content, job, served, call.id)


def found_in(job: Job, gives: frozenset[str]) -> list[Found]:
    """Each crop, or each box where there are no crops, with what is known about it."""
    boxes, scores = job.values.get("boxes"), job.values.get("box_scores")
    if boxes is not None and "crops" not in gives:
        boxes = boxes * job.values.get("scale", 1.0)
    count = len(job.items) if "crops" in gives else 0 if boxes is None else len(boxes)
    results: list[Found] = []
    for number in range(count):
        one: Found = {}
        if boxes is not None and scores is not None:
            one["box"] = [[round(float(x), 1), round(float(y), 1)] for x, y in boxes[number]]
            one["box_score"] = round(float(scores[number]), 4)
        if "crops" in gives:
            item = job.items[number]
            if "turns" in gives:
                one["turned"] = item.turned
            if "texts" in gives:
                one["text"], one["score"] = item.text, round(item.score, 4)
        results.append(one)
    return results


class Answered(Response):
    """An answer that notes when it has been sent."""

    media_type = "application/json"

    def __init__(self, content: bytes, job: Job, served: ServedPipeline, request_id: str) -> None:
        super().__init__(content, headers={"x-request-id": request_id})
        self._job, self._served = job, served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        job, written_at = self._job, time.monotonic()
        await super().__call__(scope, receive, send)
        sent_at = time.monotonic()
        spans: list[Any] = [span for span in job.trace.spans if span[0] != "answer"]
        job.trace.spans = [*spans, ("answer", job.traced_at, written_at, 1), ("sent", written_at, sent_at, 1)]
        self._served.pipeline.remember(job, sent_at)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
