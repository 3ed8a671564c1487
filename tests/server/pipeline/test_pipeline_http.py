"""Pictures over HTTP, behind the gate: three forms of a request, and what is refused with which status."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import DIRECTION, encoded, spec_of

from trimtab.server.operations import Operations
from trimtab.server.pipeline.app import create_app
from trimtab.server.pipeline.runtime import Pipeline
from trimtab.server.pipeline.served import ServedPipeline
from trimtab.server.served import Loading
from trimtab.server.settings import ServeSettings

BODY = encoded(192, 48)
JPEG = {"content-type": "image/jpeg"}
SPEC = spec_of(DIRECTION, cores=2, limits={"megapixels": 1})
Ask = Callable[[httpx.AsyncClient], Awaitable[Any]]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pipeline = Pipeline(SPEC)
    nowhere = tmp_path_factory.mktemp("keys") / "keys.json"
    chosen = ServeSettings.model_validate({"keys_file": nowhere, "max_body_bytes": 100_000})
    loading: Any = Loading.done(ServedPipeline("test", pipeline))  # type: ignore[arg-type]
    yield create_app(loading, chosen, Operations.of(chosen), SPEC)
    pipeline.close()


def asked(app: Any, ask: Ask) -> Any:
    async def run() -> Any:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await ask(client)

    return asyncio.run(run())


def posted(app: Any, content: bytes, headers: dict[str, str], path: str = "/v1/vision") -> httpx.Response:
    answer: httpx.Response = asked(app, lambda client: client.post(path, content=content, headers=headers))
    return answer


def test_the_three_forms_of_a_request_have_one_answer(app: Any) -> None:
    text = base64.b64encode(BODY).decode()
    answers = [
        posted(app, BODY, JPEG),
        posted(app, json.dumps({"image": text}).encode(), {"content-type": "application/json"}),
        posted(app, json.dumps({"image": f"data:image/jpeg;base64,{text}"}).encode(),
               {"content-type": "application/json"}),
        asked(app, lambda client: client.post("/v1/vision", files={"image": BODY})),
    ]  # fmt: skip
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-request-id"] == answer.json()["id"]
        assert answer.json()["results"] == answers[0].json()["results"]
        assert (answer.json()["width"], answer.json()["height"]) == (192, 48)
        assert "timing" not in answer.json()


def test_an_account_of_the_time_is_given_when_asked_for(app: Any) -> None:
    timing = posted(app, BODY, JPEG, "/v1/vision?trace=1").json()["timing"]
    assert {"recv", "parsed", "decode: queue", "decode: decoded", "direction: inference", "answer"} <= set(
        timing["stages_ms"]
    )
    # The marks follow each other; what is between them is only the taking of locks. Rounded to a microsecond.
    assert sum(timing["stages_ms"].values()) <= timing["total_ms"] + 0.05
    assert set(timing["cpu_ms"]) <= set(timing["stages_ms"])


@pytest.mark.parametrize(
    ("content", "headers", "status", "says"),
    [
        (b"", JPEG, 400, "empty"),
        (b"no picture", JPEG, 400, "no picture"),
        (BODY[:-600], JPEG, 400, "damaged"),
        (encoded(1200, 900, "PNG", compress_level=9)[:90_000], JPEG, 413, "megapixels"),
        (b"x" * 100_001, JPEG, 413, "larger than"),
        (b"{", {"content-type": "application/json"}, 400, "not valid JSON"),
        (b'{"image": "*"}', {"content-type": "application/json"}, 400, "not base64"),
        (b'{"image": "data:,x"}', {"content-type": "application/json"}, 400, "base64"),
        (b'{"image": "aGk=", "modle": 1}', {"content-type": "application/json"}, 400, "modle"),
        (b'{"image": "aGk=", "model": "other"}', {"content-type": "application/json"}, 404, "other"),
        (b"x", {"content-type": "multipart/form-data; boundary=b"}, 400, ""),
        (BODY, {**JPEG, "x-deadline-ms": "soon"}, 400, "x-deadline-ms"),
        (BODY, {**JPEG, "x-deadline-ms": "nan"}, 400, "x-deadline-ms"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    app: Any, content: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    answer = posted(app, content, headers)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]


@given(st.binary(max_size=300), st.integers(0, 2), st.integers(0, len(BODY)))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_answered_below_500(app: Any, noise: bytes, kind: int, place: int) -> None:
    content = [noise, BODY[:place] + noise, BODY[:place] + noise + BODY[place + len(noise) :]][kind]
    assert posted(app, content, JPEG).status_code in (200, 400, 413)


def test_more_than_it_takes_is_429_with_a_time(app: Any) -> None:
    answer = posted(app, BODY, {**JPEG, "x-deadline-ms": "0.0001"})
    assert answer.status_code in (429, 504)
    if answer.status_code == 429:
        assert int(answer.headers["retry-after"]) >= 1


def test_figures_health_models_and_console(app: Any) -> None:
    posted(app, BODY, JPEG)

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        paths = ("/metrics", "/health", "/ready", "/v1/models", "/console/api/pipeline", "/", "/openapi.json",
                 "/console/pipeline.js", "/v1/nothing")  # fmt: skip
        return [await client.get(path) for path in paths]

    figures, health, ready, models, console, page, document, script, nothing = asked(app, ask)
    assert 'trimtab:pipeline_pictures_total{model_name="test",outcome="done"}' in figures.text
    assert 'stage="direction",what="inference"' in figures.text
    assert health.json() == ready.json() == {"status": "ok"}
    assert models.json()["data"][0]["id"] == "test"
    seen = console.json()
    assert seen["recent"][-1]["stages_ms"]["sent"] >= 0
    total = sum(seen["recent"][-1]["stages_ms"].values())
    assert total <= seen["recent"][-1]["total_ms"] + 0.05
    assert "pipeline.js" in page.text
    assert script.status_code == 200
    assert {"/v1/vision", "/metrics"} <= set(document.json()["paths"])
    assert nothing.status_code == 404


def test_keys_and_their_limits_hold(tmp_path: Path) -> None:
    pipeline = Pipeline(SPEC)
    chosen = ServeSettings.model_validate({"keys_file": tmp_path / "keys.json", "api_key": "k" * 20})
    loading: Any = Loading.done(ServedPipeline("test", pipeline))  # type: ignore[arg-type]
    app = create_app(loading, chosen, Operations.of(chosen), SPEC)
    try:
        assert posted(app, BODY, JPEG).status_code == 401
        assert posted(app, BODY, {**JPEG, "authorization": f"Bearer {'k' * 20}"}).status_code == 200
        console = asked(app, lambda client: client.get("/console/api/pipeline"))
        assert console.status_code == 401
    finally:
        pipeline.close()


def test_no_deadline_is_no_number() -> None:
    from trimtab.server.pipeline.request import _deadline

    assert _deadline(None) is None
    assert _deadline("250") == 0.25
    assert math.isclose(_deadline("1e3") or 0, 1.0)
