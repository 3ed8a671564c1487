"""/v1/batches with the official client: answers, errors, every kind of end, and a server that is killed."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from official_client import client_of

ENDED = ("completed", "failed", "expired", "cancelled")


def request(number: int, url: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    plain = {"prompt": "T" * (number % 9 + 1), "max_tokens": 6, "temperature": 0}
    return {"custom_id": f"r{number}", "method": "POST", "url": url, "body": body or plain}


def begin(client: openai.OpenAI, lines: list[Any], url: str = "/v1/completions", **more: Any) -> Any:
    content = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    file = client.files.create(file=("in.jsonl", content.encode()), purpose="batch")
    endpoint: Any = url
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def until(client: openai.OpenAI, batch_id: str, done: Callable[[Any], bool], seconds: float = 60) -> Any:
    for _ in range(int(seconds * 20)):
        if done(batch := client.batches.retrieve(batch_id)):
            return batch
        time.sleep(0.05)
    raise TimeoutError(batch)


def ended(client: openai.OpenAI, batch: Any) -> Any:
    return until(client, batch.id, lambda batch: batch.status in ENDED)


def answers(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_every_line_is_answered_as_a_live_request_would_be(client: openai.OpenAI) -> None:
    lines = [request(number) for number in range(50)]
    batch = begin(client, lines, metadata={"run": "7"})
    assert (batch.status, batch.metadata, batch.completion_window) == ("validating", {"run": "7"}, "24h")
    batch = ended(client, batch)
    assert batch.status == "completed", batch
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (50, 50, 0)
    assert batch.model == "speller"
    assert batch.error_file_id is None
    assert batch.in_progress_at >= batch.created_at
    assert batch.completed_at >= batch.finalizing_at >= batch.in_progress_at
    output = answers(client, batch.output_file_id)
    assert [one["custom_id"] for one in output] == [one["custom_id"] for one in lines]
    for one, line in zip(output, lines, strict=True):
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        live = client.completions.create(model="speller", **line["body"])
        assert one["response"]["body"]["choices"][0]["text"] == live.choices[0].text
    assert batch.usage.output_tokens == 300
    assert batch.usage.total_tokens == batch.usage.input_tokens + 300
    file = client.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}),
        ("/v1/embeddings", {"input": ["a", "b"]}),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 3}),
    ],
)
def test_endpoints(client: openai.OpenAI, url: str, body: dict[str, Any]) -> None:
    batch = ended(client, begin(client, [request(1, url, **body, model="speller")], url))
    (one,) = answers(client, batch.output_file_id)
    assert one["response"]["body"]["object"] in ("chat.completion", "list", "response")
    assert batch.usage.input_tokens > 0


def test_lines_that_fail_are_in_the_error_file(client: openai.OpenAI) -> None:
    lines = [
        request(0), request(1, prompt="T", temperature=9), request(2, prompt="x" * 600),
        request(3, prompt="\x07"), request(4, prompt="T", foo=1),
    ]  # fmt: skip
    batch = ended(client, begin(client, lines))
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 4)
    errors = {one["custom_id"]: one["response"] for one in answers(client, batch.error_file_id)}
    assert {name: one["status_code"] for name, one in errors.items()} == {
        "r1": 400,
        "r2": 400,
        "r3": 500,
        "r4": 400,
    }
    assert errors["r1"]["body"]["error"]["param"] == "temperature"
    assert errors["r2"]["body"]["error"]["code"] == "context_length_exceeded"
    assert errors["r4"]["body"]["error"]["message"] == "Unrecognized request argument supplied: foo"
    assert [one["custom_id"] for one in answers(client, batch.output_file_id)] == ["r0"]


def test_an_input_that_is_wrong_runs_nothing(client: openai.OpenAI) -> None:
    batch = ended(client, begin(client, [request(1), "{", request(1), request(2, url="/v1/embeddings")]))
    assert batch.status == "failed"
    assert [(one.line, one.code) for one in batch.errors.data] == [
        (2, "invalid_json_line"), (3, "duplicate_custom_id"), (4, "mismatched_url"),
    ]  # fmt: skip
    assert batch.output_file_id is batch.error_file_id is None
    assert batch.failed_at is not None
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
        ({"foo": 1}, "foo"),
    ],
)
def test_refusals(server: Any, client: openai.OpenAI, asked: dict[str, Any], param: str) -> None:
    file = client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": "/v1/completions", "completion_window": "24h"} | asked
    answer = httpx.post(f"{server.url}/v1/batches", json=body, timeout=30)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_file_for_another_purpose_is_refused(client: openai.OpenAI) -> None:
    file = client.files.create(file=("in.jsonl", b"{}"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="must be 'batch'"):
        client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")


def test_unknown_batches(client: openai.OpenAI) -> None:
    for ask in (client.batches.retrieve, client.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            ask("batch_none")


def test_batches_are_listed_newest_first(client: openai.OpenAI) -> None:
    made = [begin(client, [request(number)]).id for number in range(5)]
    assert [one.id for one in client.batches.list(limit=2)][:5] == made[::-1]
    for batch_id in made:
        until(client, batch_id, lambda batch: batch.status == "completed")


def slow(number: int) -> dict[str, Any]:
    return request(number, prompt="T", max_tokens=30, temperature=0, ignore_eos=True)


def test_cancelling_keeps_what_is_answered(start: Callable[..., Any]) -> None:
    with client_of(start("--step-ms", "10")) as client:
        batch = begin(client, [slow(number) for number in range(400)])
        until(client, batch.id, lambda batch: batch.request_counts.completed > 8)
        assert client.batches.cancel(batch.id).status == "cancelling"
        batch = ended(client, batch)
        assert batch.status == "cancelled"
        done = batch.request_counts.completed
        assert 8 < done < 400
        assert len(answers(client, batch.output_file_id)) == done
        assert client.batches.cancel(batch.id).status == "cancelled"


def test_live_requests_go_first(start: Callable[..., Any]) -> None:
    """A batch of long lines takes half of the places; a live request does not wait for one of them to end."""
    with client_of(start("--step-ms", "10")) as client:
        lines = [request(n, prompt="T", max_tokens=300, ignore_eos=True, temperature=0) for n in range(60)]
        batch = begin(client, lines)
        until(client, batch.id, lambda batch: batch.status == "in_progress")
        time.sleep(0.5)
        began = time.monotonic()
        client.completions.create(model="speller", prompt="T", max_tokens=5)
        assert time.monotonic() - began < 2  # a line takes three seconds or more
        client.batches.cancel(batch.id)


def test_deleting_the_input_does_not_end_the_batch(client: openai.OpenAI) -> None:
    batch = begin(client, [request(number) for number in range(40)])
    client.files.delete(batch.input_file_id)
    assert ended(client, batch).request_counts.completed == 40


def test_output_files_can_expire(client: openai.OpenAI) -> None:
    batch = begin(client, [request(1)], output_expires_after={"anchor": "created_at", "seconds": 7200})
    file = client.files.retrieve(ended(client, batch).output_file_id)
    assert file.expires_at == file.created_at + 7200


def count_results(folder: Path) -> int:
    with sqlite3.connect(folder / "state.db", timeout=30) as connection:
        count: int = connection.execute("SELECT COUNT(*) FROM results").fetchone()[0]
    connection.close()
    return count


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_batch_outlives_its_server(start: Callable[..., Any], tmp_path: Path, sig: signal.Signals) -> None:
    """Ended three times in the middle of its work: no line is lost, none is answered twice."""
    folder = tmp_path / "state"
    server = start("--step-ms", "5", f"state_dir={folder}")
    with client_of(server) as client:
        batch = begin(client, [slow(number) for number in range(120)])
        until(client, batch.id, lambda batch: batch.request_counts.completed > 5)
    before: dict[str, str] = {}
    for _ in range(3):
        server.process.send_signal(sig)
        server.process.wait(30)
        with sqlite3.connect(folder / "state.db") as connection:
            rows = connection.execute("SELECT line, content FROM results").fetchall()
        connection.close()
        kept = {json.loads(content)["custom_id"]: content for _, content in rows}
        assert len(kept) == len(rows)
        assert before.items() <= kept.items(), "an answer was lost or written again"
        before = kept
        count = len(kept)
        server = start("--step-ms", "5", f"state_dir={folder}")
        with client_of(server) as client:
            until(
                client,
                batch.id,
                lambda batch, count=count: batch.request_counts.completed > min(count + 5, 119),
            )
    with client_of(server) as client:
        batch = ended(client, batch)
        assert batch.status == "completed"
        output = {one["custom_id"]: one for one in answers(client, batch.output_file_id)}
        lines = client.files.content(batch.output_file_id).text.splitlines(keepends=True)
    assert len(lines) == len(output) == 120
    assert set(before.values()) <= set(lines), "an answer from before was given again"
    assert batch.request_counts.completed == 120
    assert list((folder / "batches").iterdir()) == []


def test_expired_batches_name_what_was_not_done(start: Callable[..., Any], tmp_path: Path) -> None:
    server = start("--step-ms", "10", f"state_dir={tmp_path}")
    with client_of(server) as client:
        batch = begin(client, [slow(number) for number in range(100)])
        until(client, batch.id, lambda batch: batch.request_counts.completed > 5)
    server.process.kill()
    server.process.wait()
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("UPDATE batches SET expires_at = 5")
    connection.close()
    with client_of(start("--step-ms", "10", f"state_dir={tmp_path}")) as client:
        batch = ended(client, batch)
        assert batch.status == "expired"
        done = answers(client, batch.output_file_id)
        late = answers(client, batch.error_file_id)
        assert {one["error"]["code"] for one in late} == {"batch_expired"}
        assert {one["custom_id"] for one in done + late} == {f"r{number}" for number in range(100)}
        assert len(done) + len(late) == 100
        counts = batch.request_counts
        assert (counts.completed, counts.failed) == (len(done), len(late))


@pytest.mark.slow
def test_two_servers_share_a_folder(start: Callable[..., Any], tmp_path: Path) -> None:
    """Each batch is worked on by one of them; when that one is killed, the other goes on."""
    servers = [start("--step-ms", "5", f"state_dir={tmp_path}") for _ in range(2)]
    first, second = (client_of(server) for server in servers)
    with first, second:
        batch = begin(first, [slow(number) for number in range(60)])
        begin(second, [request(1)])  # wakes the other one
        until(second, batch.id, lambda batch: batch.request_counts.completed > 5)
        servers[0].process.kill()
        servers[0].process.wait()
        batch = until(second, batch.id, lambda batch: batch.status in ENDED)
        assert batch.request_counts.completed == 60
        assert len(answers(second, batch.output_file_id)) == 60
