"""The console's own addresses: files that let nothing foreign run, and figures for whoever may see them."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from serving_fakes import SpellingRunner, make_served

import trimtab.server
from trimtab.engine.budget import resident_bytes
from trimtab.errors import Busy
from trimtab.machine import probe
from trimtab.machine.profile import Profile, Section, update
from trimtab.server.app import create_app
from trimtab.server.console import machine
from trimtab.server.console.inspector import Inspector
from trimtab.server.served import Loading

FOLDER = Path(trimtab.server.__file__).with_name("console") / "static"
FILES = sorted(FOLDER.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]


@pytest.fixture
def client() -> Iterator[TestClient]:
    yield from serving(Inspector("full"))


def serving(inspector: Inspector | None, **options: Any) -> Iterator[TestClient]:
    served = make_served(SpellingRunner(**options), inspector)
    app = create_app(Loading.done(served))
    yield TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
    app.state.live.stop()
    served.engine.close()


def complete(client: TestClient, **more: Any) -> str:
    body = {"prompt": "secret words", "max_tokens": 12, "temperature": 0} | more
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


# --- files ------------------------------------------------------------------------------------------------


def test_the_page_comes_with_headers_that_let_nothing_foreign_run(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    parts = answer.headers["content-security-policy"].split(";")
    policy = dict(part.strip().partition(" ")[::2] for part in parts)
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert not [part for part in parts if "unsafe" in part]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert client.head("/").status_code == 200


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_served_with_its_type_and_asked_for_again_cheaply(
    client: TestClient, path: Path
) -> None:
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
    answer = client.get(f"/console/{path.name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kinds[path.suffix])
    assert answer.content == path.read_bytes()
    again = client.get(
        f"/console/{path.name}", headers={"If-None-Match": f'"other", {answer.headers["etag"]}'}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert "content-security-policy" in again.headers


@pytest.mark.parametrize(
    "name",
    ["..%2fapp.py", "app.py", "no-such.js", ".js", "a%00.js", "%2e%2e%2f%2e%2e%2ferrors.py", "é.js", "api"],
)
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    answer = client.get(f"/console/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_page_has_no_inline_code() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    for tag in re.findall(r"<script[^>]*>", page):
        assert "src=" in tag
    assert "<style" not in page
    assert not re.search(r"\s(on\w+|style)=", page)


def test_all_that_the_page_and_its_modules_name_exists() -> None:
    pages = [path for path in FILES if path.suffix == ".html"]
    named = {
        name
        for page in pages
        for name in re.findall(r'(?:src|href)="/?console/([^"]+)"', page.read_text("utf-8"))
    }
    for script in SCRIPTS:
        named |= set(re.findall(r'from "\./([^"]+)"', script.read_text(encoding="utf-8")))
    assert named <= {path.name for path in FILES}
    # And nothing lies there that nobody uses.
    assert {path.name for path in FILES} - named == {page.name for page in pages}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_is_fetched_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[\w.-]+", text)) - {"http://www.w3.org"}
    assert not addresses
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_can_turn_text_into_markup_or_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|setHTML"
    assert not re.search(rf"{markup}|\beval\(|new Function", text)


# --- requests ---------------------------------------------------------------------------------------------


def test_a_request_is_listed_and_opened(client: TestClient) -> None:
    request_id = complete(client)
    listed = client.get("/console/api/requests").json()
    assert listed["mode"] == "full"
    (row,) = listed["data"]
    assert (row["id"], row["status"], row["output_tokens"]) == (request_id, "length", 12)
    assert 0 <= row["queue_s"] <= row["ttft_s"] <= row["total_s"]
    found = client.get(f"/console/api/requests/{request_id}").json()
    assert found["content"] == "full"
    assert found["prompts"] == [{"text": "secret words", "tokens": 12}]
    (track,) = found["tracks"]
    assert len(track["texts"]) == len(track["times_ms"]) == 12
    assert track["logprobs"] is None
    assert client.get("/console/api/requests").headers["cache-control"] == "no-store"


def test_scoring_adds_log_probabilities(client: TestClient) -> None:
    request_id = complete(client)
    found = client.post(f"/console/api/requests/{request_id}/score").json()
    (track,) = found["tracks"]
    assert track["scored"]
    assert track["logprobs"] == [-0.5] * 12
    assert [len(place) for place in track["top"]] == [5] * 12
    # It is the same request, and the scoring itself is none.
    assert len(client.get("/console/api/requests").json()["data"]) == 1
    wrong = client.post(f"/console/api/requests/{request_id}/score?output=5")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "output")


def test_several_prompts_and_choices(client: TestClient) -> None:
    request_id = complete(client, prompt=["one", "three"], n=2, temperature=1, seed=2)
    row = client.get("/console/api/requests").json()["data"][0]
    assert (row["outputs"], row["prompt_tokens"], row["output_tokens"]) == (4, 8, 48)
    found = client.post(f"/console/api/requests/{request_id}/score?output=3").json()
    assert [track["scored"] for track in found["tracks"]] == [False, False, False, True]
    assert [prompt["text"] for prompt in found["prompts"]] == ["one", "three"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.5"])
def test_content_is_for_a_browser_on_this_machine(client: TestClient, host: str) -> None:
    request_id = complete(client)
    for mine in ("127.0.0.1:8000", "localhost", "LOCALHOST:8000", "[::1]:8000", "[::1]"):
        found = client.get(f"/console/api/requests/{request_id}", headers={"Host": mine})
        assert "secret" in found.text, mine
    found = client.get(f"/console/api/requests/{request_id}", headers={"Host": host})
    assert found.status_code == 200
    assert "secret" not in found.text
    assert found.json()["tracks"][0]["texts"] is None
    refused = client.post(f"/console/api/requests/{request_id}/score", headers={"Host": host})
    assert refused.status_code == 403


def test_whoever_starts_it_may_show_content_elsewhere() -> None:
    for client in serving(Inspector("full", chosen=True)):
        request_id = complete(client)
        found = client.get(f"/console/api/requests/{request_id}", headers={"Host": "console.example"})
        assert "secret" in found.text


def test_other_sites_cannot_make_it_work(client: TestClient) -> None:
    request_id = complete(client)
    for address in (f"/console/api/requests/{request_id}/score", "/console/api/machine/probe"):
        for site in ("cross-site", "same-site"):
            answer = client.post(address, headers={"Sec-Fetch-Site": site})
            assert answer.status_code == 403


def test_meta_shows_figures_only() -> None:
    for client in serving(Inspector("meta")):
        request_id = complete(client, logprobs=3)
        found = client.get(f"/console/api/requests/{request_id}")
        assert "secret" not in found.text
        assert len(found.json()["tracks"][0]["times_ms"]) == 12
        assert client.post(f"/console/api/requests/{request_id}/score").status_code == 403


def test_off_says_how_to_turn_it_on() -> None:
    for inspector in (Inspector("off"), None):
        for client in serving(inspector):
            complete(client)
            answer = client.get("/console/api/requests")
            assert answer.status_code == 404
            assert "--inspect" in answer.json()["error"]["message"]


def test_an_unknown_request_is_404(client: TestClient) -> None:
    assert client.get("/console/api/requests/nothing").status_code == 404


# --- machine ----------------------------------------------------------------------------------------------


def test_the_machine_is_described(client: TestClient, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TRIMTAB_PROFILE", str(tmp_path / "profile.json"))
    found = client.get("/console/api/machine").json()
    assert found["processor"]["usable"] >= 1
    assert found["memory"]["weights"] == 1000
    assert found["memory"]["resident"] > 0
    assert found["limits"] is None
    assert found["hindrance"] == ""


def test_limits_are_measured_once_and_kept(tmp_path: Path, monkeypatch: Any) -> None:
    calls: list[int] = []

    def measure(threads: int, seconds: float) -> probe.Limits:
        calls.append(threads)
        return probe.Limits(threads, 20e9, 25e9, 900e9, "vnni", 400e9, "bf16")

    monkeypatch.setattr(probe, "measure", measure)
    monkeypatch.setenv("TRIMTAB_PROFILE", str(tmp_path / "profile.json"))
    served = make_served()
    assert machine.saved_limits(served) is None
    update("other", Section({"x": 1}, "2026-01-01T00:00:00+00:00"))
    machine.measure_limits(served)
    saved = machine.saved_limits(served)
    assert saved is not None
    assert (saved["read_bytes_per_s"], saved["threads"]) == (20e9, calls[0])
    profile = Profile.load()
    assert set(profile.sections) == {"other", "probe"}
    # Of another machine, or another number of threads, they say nothing; neither do old or damaged ones.
    Profile({**profile.machine, "processor": "another one"}, profile.sections).save()
    assert machine.saved_limits(served) is None
    probed = profile.sections["probe"]
    for wrong in (
        replace(probed, data={**probed.data, "threads": 99}),
        replace(probed, date="2020-01-01T00:00:00+00:00"),
        replace(probed, data={}),
    ):
        profile.with_section("probe", wrong).save()
        assert machine.saved_limits(served) is None
    (tmp_path / "profile.json").write_text("{")
    assert machine.saved_limits(served) is None
    served.engine.close()


def test_the_machines_profile_gives_the_limits_too(tmp_path: Path) -> None:
    served, now = make_served(), datetime.now(UTC)
    count = machine.threads(served)
    peaks = [
        {"unit": unit, "class": "register", "threads": count, "median": value, "kind": unit.upper()}
        for unit, value in (("int8", 9e11), ("bf16", 4e11), ("float32", 2e11))
    ]
    rates = [
        {"pattern": "read", "threads": count, "working_set_bytes": size, "bytes_per_s": rate}
        for size, rate in ((1 << 14, 3e11), (1 << 28, 3e10))
    ]
    measured = now.isoformat()
    profile = Profile({}, {"peak": Section({"rows": peaks}, measured)})
    path = profile.save(tmp_path / "p.json")
    assert machine.saved_limits(served, path) is None  # half of it is missing
    profile = profile.with_section("bandwidth", Section({"rows": rates}, measured))
    profile.save(path)
    found = machine.saved_limits(served, path)
    assert found == {
        "threads": count, "read_bytes_per_s": 3e10, "best_read_bytes_per_s": 3e10, "int8_ops_per_s": 9e11,
        "int8_kind": "INT8", "float_ops_per_s": 4e11, "float_kind": "BF16", "date": measured,
    }  # fmt: skip
    # What the page itself measured counts when it is newer, and not when it is older.
    for minutes, rate in ((-1, 3e10), (1, 2e10)):
        probe_date = (now + timedelta(minutes=minutes)).isoformat()
        probed = Section({"threads": count, "read_bytes_per_s": 2e10}, probe_date)
        profile.with_section("probe", probed).save(path)
        assert machine.saved_limits(served, path)["read_bytes_per_s"] == rate  # type: ignore[index]
    loud = Section({"rows": rates}, measured, others=0.9)
    profile.with_section("bandwidth", loud).save(path)
    assert machine.saved_limits(served, path) is None
    served.engine.close()


def idle(promised_bytes: int | None, running: int = 0) -> Any:
    """As much of a served model as the question takes whether the machine can be measured."""
    engine = SimpleNamespace(stats=lambda: {"running": running, "waiting": 0, "steps": 0})
    return SimpleNamespace(engine=engine, plan=SimpleNamespace(promised_bytes=promised_bytes))


def test_a_busy_machine_is_not_measured() -> None:
    assert "requests are running" in machine.hindrance(idle(None, running=1))
    with pytest.raises(Busy, match="requests are running"):
        machine.measure_limits(idle(None, running=1))


def test_a_promise_is_kept_while_measuring() -> None:
    now = resident_bytes()
    assert "promise" in machine.hindrance(idle(now + (100 << 20)))
    assert machine.hindrance(idle(now + (400 << 20))) == ""


# --- live -------------------------------------------------------------------------------------------------


def events(url: str, count: int) -> list[tuple[str, Any]]:
    """The first events of the feed."""
    found: list[tuple[str, Any]] = []
    with httpx.stream("GET", f"{url}/console/api/live", timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                found.append((name, json.loads(line[6:])))
                if len(found) == count:
                    break
    return found


def test_the_feed_begins_with_who_answers_and_what_has_been(server: Any) -> None:
    httpx.post(f"{server.url}/v1/completions", json={"prompt": "T", "max_tokens": 50})
    time.sleep(2.2)
    (hello, greeting), (rows, history), (more, _) = events(server.url, 3)
    assert (hello, rows, more) == ("hello", "rows", "rows")
    assert greeting["model"] == "speller"
    decode = greeting["columns"].index("decode")
    assert sum(row[decode] for row in history) > 0
    assert all(len(row) == len(greeting["columns"]) for row in history)


def test_the_feed_says_that_the_model_is_loading(start: Callable[..., Any]) -> None:
    # A server prints its address once the model is there: this one's is known before.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names: list[str] = []

    def watch() -> None:
        while not names:
            try:
                names.extend(name for name, _ in events(f"http://127.0.0.1:{port}", 2))
            except httpx.ConnectError:
                time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start("--load-s", "3", f"port={port}")
    watcher.join(20)
    assert names == ["loading", "loading"]


def test_an_open_feed_does_not_hold_up_the_end(start: Callable[..., Any]) -> None:
    server = start()
    with httpx.stream("GET", f"{server.url}/console/api/live", timeout=20) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: hello"
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert "event: bye" in list(lines)
    code, _ = server.end()
    assert code == signal.SIGTERM
    assert time.monotonic() - began < 10


def test_the_console_is_no_part_of_the_documented_api(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if "console" in path or path == "/"]
