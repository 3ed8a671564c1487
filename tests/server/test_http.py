"""What no well-behaved client sends or does, over plain HTTP and plain sockets."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

JSON = {"content-type": "application/json"}


def post(url: str, content: bytes, headers: dict[str, str] = JSON) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", content=content, headers=headers, timeout=30)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the body is empty"),
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"prompt": "\xff"}', "not JSON in UTF-8"),
        (b'{"prompt": "T", "temperature": NaN}', "'temperature'"),
        (b'{"prompt": "T", "max_tokens": 1e400}', "'max_tokens'"),
        (b'{"prompt": "\\ud800"}', "not valid Unicode"),
        (b'{"prompt": []}', "'prompt'"),
        (b'{"prompt": [[]], "max_tokens": -1}', "'max_tokens'"),
        (b'{"prompt": [99999]}', "token 99999"),
        (b'{"prompt": [-1]}', "'prompt"),
        (b'{"prompt": [1, "a"]}', "an array of integers or an array of arrays of integers"),
        (b'{"prompt": "T", "n": 100, "max_tokens": 1, "stop": 5}', "'stop'"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_bad_bodies_are_400(server: Any, content: bytes, says: str) -> None:
    answer = post(server.url, content)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_of_another_type_is_explained(server: Any) -> None:
    answer = post(server.url, b'{"prompt": "T"}', {"content-type": "text/plain"})
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_unknown_addresses_and_methods(server: Any) -> None:
    missing = httpx.get(f"{server.url}/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "invalid_request_error")
    wrong = httpx.get(f"{server.url}/v1/completions")
    assert wrong.status_code == 405
    assert "GET" in wrong.json()["error"]["message"]


def test_an_empty_prompt_starts_from_nothing(server: Any) -> None:
    answer = post(server.url, b'{"prompt": "", "max_tokens": 3, "temperature": 0}')
    assert answer.json()["choices"][0]["text"] == "he "


def test_the_api_describes_itself(server: Any) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert "422" not in chat["responses"]
    assert chat["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "ChatCompletion"
    )
    assert "ErrorAnswer" in json.dumps(chat["responses"]["default"])
    references = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert references <= set(document["components"]["schemas"])


def test_bodies_have_a_limit(start: Callable[..., Any]) -> None:
    server = start("max_body_bytes=2000")
    assert post(server.url, b'{"prompt": "T", "max_tokens": 1}').status_code == 200
    large = post(server.url, json.dumps({"prompt": "x" * 3000}).encode())
    assert (large.status_code, large.headers["connection"]) == (413, "close")
    assert "limit of this server" in large.json()["error"]["message"]

    def endless() -> Any:
        for _ in range(1000):
            yield b"x" * 100

    answer = httpx.post(f"{server.url}/v1/completions", content=endless(), headers=JSON, timeout=30)
    assert answer.status_code == 413


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_request(start: Callable[..., Any], stream: bool) -> None:
    server = start("--step-ms", "20", "max_queue=1")
    parts = urlsplit(server.url)
    gone = [socket.create_connection((parts.hostname, parts.port)) for _ in range(17)]
    body = json.dumps({"prompt": "T", "max_tokens": 500, "ignore_eos": True, "stream": stream}).encode()
    lines = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    for connection in gone:
        connection.sendall(head.encode() + body)
    time.sleep(0.5)
    refused = post(server.url, b'{"prompt": "T", "max_tokens": 1}')  # 16 run, one waits
    assert refused.status_code == 429
    assert refused.headers["retry-after"]
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    for connection in gone:
        connection.close()
    for _ in range(50):
        if (answer := post(server.url, b'{"prompt": "T", "max_tokens": 1}')).status_code == 200:
            break
        time.sleep(0.1)
    assert answer.status_code == 200  # long before 500 steps of 20 ms


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_streams_finish(start: Callable[..., Any], sig: signal.Signals) -> None:
    server = start("--step-ms", "20")
    body = {"prompt": "T", "max_tokens": 50, "stream": True, "temperature": 0}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        server.process.send_signal(sig)
        time.sleep(0.3)
        assert httpx.get(f"{server.url}/ready").status_code == 503
        rest = [line for line in lines if line]
    assert first.startswith("data: ")
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason": "length"' in rest[-2]
    server.process.wait(timeout=20)
    assert server.end() == (sig, "")


def test_a_second_signal_ends_at_once(start: Callable[..., Any]) -> None:
    server = start("--step-ms", "100")
    body = {"prompt": "T", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as answer:
        next(answer.iter_lines())
        began = time.monotonic()
        for _ in range(2):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        server.process.wait(timeout=20)
        assert time.monotonic() - began < 15


def test_running_requests_end_when_draining_takes_too_long(start: Callable[..., Any]) -> None:
    server = start("--step-ms", "100", "drain_seconds=1")
    body = {"prompt": "T", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as answer:
        next(answer.iter_lines())
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(timeout=20)


def test_requests_wait_for_a_model_that_still_loads(start: Callable[..., Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    import threading

    url = f"http://127.0.0.1:{port}"
    threading.Thread(target=start, args=("--load-s", "4", f"port={port}")).start()
    assert _until_listening(url).json() == {"status": "loading"}
    ready = httpx.get(f"{url}/ready")
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
    assert (
        post(url, b'{"prompt": "T", "max_tokens": 2, "temperature": 0}').json()["choices"][0]["text"] == "he"
    )
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{url}/ready").status_code == 200


def test_a_model_that_cannot_load_ends_the_server(start: Callable[..., Any]) -> None:
    server = start("--fail", "--load-s", "0.5")
    server.process.wait(timeout=20)
    assert server.process.returncode == 1
    assert "BadFile: broken.gguf at byte 4: not a model" in server.end()[1]


def test_a_taken_port_is_known_at_once(server: Any, start: Callable[..., Any]) -> None:
    port = urlsplit(server.url).port
    second = start("--load-s", "30", f"port={port}")
    second.process.wait(timeout=10)
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in second.end()[1]


def test_connections_are_kept(server: Any) -> None:
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    for _ in range(3):
        connection.request("POST", "/v1/completions", b'{"prompt": "T", "max_tokens": 1}', JSON)
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()


def _until_listening(url: str) -> httpx.Response:
    for _ in range(100):
        try:
            return httpx.get(f"{url}/health", timeout=30)
        except httpx.ConnectError:
            time.sleep(0.05)
    raise TimeoutError(url)
