"""Recording a running server: who may, for how long, and that what comes back is the requests' account."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_fakes import SpellingRunner, make_served

from trimtab.machine import spans
from trimtab.machine.dissect.chrome_trace import faults
from trimtab.machine.dissect.dissection import dissect
from trimtab.machine.spans import Recording
from trimtab.server.access.keyfile import TenantRecord, change, new_key, new_salt
from trimtab.server.access.keys import Keys
from trimtab.server.app import create_app
from trimtab.server.operations import Operations
from trimtab.server.served import Loading

PATH = "/console/api/recording"


@pytest.fixture
def client() -> Iterator[TestClient]:
    served = make_served(SpellingRunner(1.0))
    app = create_app(Loading.done(served))
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as made:
        yield made
    app.state.live.stop()
    served.engine.close()


def recorded(client: TestClient, work: Any, format: str = "recording") -> Any:
    """What a recording that lasts as long as `work` answers."""
    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.append(client.post(f"{PATH}?seconds=30&format={format}"))
    )
    asking.start()
    deadline = time.monotonic() + 20
    while not client.get(PATH).json()["recording"]:
        assert time.monotonic() < deadline
    work()
    assert client.delete(PATH).status_code == 200
    asking.join(20)
    return answers[0]


def ask(client: TestClient, **more: Any) -> str:
    body = {"prompt": "some words", "max_tokens": 6, "temperature": 0, **more}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-request-id"])


def chat(client: TestClient) -> str:
    body = {"messages": [{"role": "user", "content": "words"}], "max_tokens": 4, "stream": True}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-request-id"])


def test_stages_follow_each_other_and_leave_nothing_out(client: TestClient) -> None:
    ask(client)  # before: not recorded
    names: list[str] = []
    answer = recorded(client, lambda: names.extend([ask(client), ask(client, stream=True), chat(client)]))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found = Recording.from_bytes(answer.content)
    assert [told["id"] for told in found.facts["requests"]] == names
    stages: dict[int, list[tuple[int, int, int]]] = {}
    for stage in spans.STAGES:
        for _, events in found.spans(stage):
            for begin, end, _, number in events.tolist():
                stages.setdefault(number, []).append((begin, end, stage))
    whole = {e[3]: e for _, events in found.spans(spans.REQUEST) for e in events.tolist()}
    assert set(whole) == set(stages) == {told["number"] for told in found.facts["requests"]}
    for number, rows in stages.items():
        rows.sort()
        for before, after in itertools.pairwise(rows):
            assert before[1] <= after[0] + 1  # the nanosecond that rounding to seconds may cost
            assert spans.STAGES.index(before[2]) < spans.STAGES.index(after[2])
        length = sum(end - begin for begin, end, _ in rows)
        assert length == pytest.approx(whole[number][1] - whole[number][0], rel=0.05, abs=2e6)
    last = spans.STAGES.index(spans.TEMPLATE)
    assert any(spans.STAGES.index(row[2]) == last for row in stages[found.facts["requests"][2]["number"]])
    table = dissect(found)["requests"]
    assert [row["output_tokens"] for row in table["rows"]] == [6, 6, 4]
    assert "first_s" in table["rows"][1]  # streamed
    assert "first_s" not in table["rows"][0]


def test_the_engines_loop_is_recorded_too(client: TestClient) -> None:
    answer = recorded(client, lambda: ask(client))
    found = Recording.from_bytes(answer.content)
    table = dissect(found)["engine"]
    parts = {row["part"] for row in table["rows"]}
    assert {"schedule", "assemble", "commit", "wake", "step"} <= parts
    assert 0.9 < table["closure"] <= 1.0 + 1e-9


def test_a_trace_opens_in_viewers(client: TestClient) -> None:
    answer = recorded(client, lambda: ask(client), "chrome")
    assert answer.headers["content-type"] == "application/json"
    assert faults(json.loads(answer.content)) == []


def test_it_ends_by_itself(client: TestClient) -> None:
    answer = client.post(f"{PATH}?seconds=0.05&format=recording")
    assert answer.status_code == 200
    assert Recording.from_bytes(answer.content).facts["requests"] == []
    assert client.get(PATH).json() == {"recording": False}


@pytest.mark.parametrize("query", ["seconds=0", "seconds=-1", "seconds=1e9", "seconds=nan", "format=xml"])
def test_impossible_wishes_are_refused(client: TestClient, query: str) -> None:
    answer = client.post(f"{PATH}?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["error"]["message"]


def test_one_at_a_time(client: TestClient) -> None:
    statuses: list[int] = []
    recorded(client, lambda: statuses.append(client.post(f"{PATH}?seconds=1").status_code))
    assert statuses == [409]


def test_other_sites_cannot_record(client: TestClient) -> None:
    for method in ("POST", "GET", "DELETE"):
        answer = client.request(method, PATH, headers={"sec-fetch-site": "cross-site"})
        assert answer.status_code == 403


def test_only_administrators_may(tmp_path: Any) -> None:
    keys = tmp_path / "keys.json"

    def create(name: str, admin: bool) -> str:
        key, kept = new_key(int(time.time()), None)
        record = TenantRecord(name=name, salt=new_salt(), keys=(kept,), admin=admin)
        change(keys, lambda content: content.replaced(record))
        return key

    plain, admin = create("plain", False), create("chief", True)
    served = make_served()
    app = create_app(Loading.done(served), operations=Operations(Keys(keys)))
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        for key, status in (("", 401), (plain, 403), (admin, 200)):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            assert client.post(f"{PATH}?seconds=0.02", headers=headers).status_code == status
            assert client.get(PATH, headers=headers).status_code == status
    app.state.live.stop()
    served.engine.close()
