"""SIGTERM: what runs finishes, what is new is sent away politely, and nothing is cut."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

STREAM: dict[str, Any] = {
    "prompt": "T",
    "max_tokens": 100,
    "stream": True,
    "ignore_eos": True,
    "temperature": 0,
}


def metrics(server: Any) -> str:
    return httpx.get(f"{server.url}/metrics", timeout=30).text


def whole(lines: list[str]) -> bool:
    """A stream that was not cut: all its tokens, its reason, its end."""
    events = [line.removeprefix("data: ") for line in lines if line]
    reasons = [json.loads(event)["choices"][0]["finish_reason"] for event in events[:-1]]
    return events[-1] == "[DONE]" and reasons[-1] == "length"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_no_stream_is_cut_and_new_requests_are_sent_away(
    start: Callable[..., Any], sig: signal.Signals
) -> None:
    server = start("--step-ms", "20")
    begun = threading.Barrier(13)

    def stream(number: int) -> list[str]:
        body = STREAM | {"max_tokens": 40 + 10 * number}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            first = next(lines)
            begun.wait()
            return [first, *lines]

    def plain() -> Any:
        begun.wait()
        return httpx.post(f"{server.url}/v1/completions", json=STREAM | {"stream": False}, timeout=60)

    with httpx.Client(base_url=server.url, timeout=30) as kept, ThreadPoolExecutor(12) as pool:
        assert kept.get("/ready").status_code == 200
        streams = [pool.submit(stream, number) for number in range(11)]
        one = pool.submit(plain)
        begun.wait()
        time.sleep(0.2)
        server.process.send_signal(sig)
        time.sleep(0.3)

        ready = kept.get("/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert kept.get("/health").json() == {"status": "draining"}
        for client in (kept, httpx):  # on a connection that was there, and on a new one
            base = "" if client is kept else server.url
            refused = client.post(f"{base}/v1/completions", json=STREAM)  # type: ignore[attr-defined]
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == "server_error"
        assert "trimtab:draining" in kept.get("/metrics").text

        assert all(whole(one.result()) for one in streams)
        answer = one.result()
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 100
    server.process.wait(timeout=20)
    assert server.end() == (sig, "")


def test_the_official_client_is_told_to_retry(start: Callable[..., Any]) -> None:
    server = start("--step-ms", "20")
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=30) as client,
        client.completions.create(model="speller", prompt="T", max_tokens=60, stream=True) as running,
    ):
        next(iter(running))
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(openai.InternalServerError, match="shutting down") as caught:
            client.models.list()
        assert caught.value.status_code == 503
        assert [chunk.choices[0].finish_reason for chunk in running][-1] == "length"


def test_an_idle_server_ends_at_once(start: Callable[..., Any]) -> None:
    server = start()
    parts = urlsplit(server.url)
    with socket.create_connection(
        (parts.hostname, parts.port), timeout=10
    ) as idle:  # an idle client does not hold it
        time.sleep(0.3)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == signal.SIGTERM  # what the test's program returns
        assert time.monotonic() - began < 4
        assert idle.recv(10) == b""


def test_a_second_signal_ends_at_once(start: Callable[..., Any]) -> None:
    server = start("--step-ms", "20")
    body = STREAM | {"max_tokens": 400}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as answer:
        lines = answer.iter_lines()  # kept: one that is dropped closes the connection
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert server.process.poll() is None
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == signal.SIGTERM
        assert time.monotonic() - began < 4


def test_a_drain_has_an_end(start: Callable[..., Any]) -> None:
    server = start("--step-ms", "50", "drain_seconds=1")
    body = STREAM | {"max_tokens": 400}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == signal.SIGTERM
        assert 0.9 < time.monotonic() - began < 6


def test_requests_that_wait_in_the_queue_are_served_too(start: Callable[..., Any]) -> None:
    server = start("--step-ms", "20")
    body = STREAM | {"max_tokens": 200, "stream": False}
    with ThreadPoolExecutor(30) as pool:
        asked = [
            pool.submit(httpx.post, f"{server.url}/v1/completions", json=body, timeout=60) for _ in range(30)
        ]
        while not re.search(r"^trimtab:num_requests_waiting\{.*\} 14$", metrics(server), re.MULTILINE):
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        answers = [one.result() for one in asked]
    assert [answer.status_code for answer in answers] == [200] * 30  # 16 ran, 14 waited


def test_a_stream_that_is_read_slowly_is_not_cut(start: Callable[..., Any]) -> None:
    """All is generated long before the client has read it: the rest must still reach it."""
    server = start("max_prompts=64")
    parts = urlsplit(server.url)
    body = json.dumps(STREAM | {"prompt": ["T"] * 30, "max_tokens": 390, "logprobs": 20}).encode()
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as slow:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        slow.sendall(head + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        got = slow.recv(1000)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        while part := slow.recv(1 << 16):
            got += part
    assert got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert server.process.wait(timeout=20) == signal.SIGTERM


def test_live_feeds_do_not_hold_a_server(start: Callable[..., Any]) -> None:
    server = start()
    with httpx.stream("GET", f"{server.url}/console/api/live", timeout=30) as feed:
        lines = feed.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        server.process.wait(timeout=20)
        assert time.monotonic() - began < 5
