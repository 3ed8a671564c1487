"""Slow, silent and too many clients: each costs a bounded time, and the others notice nothing."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import trustme

from trimtab.errors import UsageError
from trimtab.server.access.tls import Certificate

BODY = json.dumps({"prompt": "T", "max_tokens": 2}).encode()
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def connect(server: Any, stack: ExitStack) -> socket.socket:
    parts = urlsplit(server.url)
    return stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=20))


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    got = b""
    try:
        while part := connection.recv(65536):
            got += part
    except ConnectionResetError:
        pass
    return got


def answered(server: Any) -> bool:
    return (
        httpx.post(
            f"{server.url}/v1/completions", content=BODY, headers={"content-type": "application/json"}
        ).status_code
        == 200
    )


def error_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]["message"]


def test_a_head_that_does_not_end(start: Callable[..., Any], stack: ExitStack) -> None:
    server = start("header_seconds=1")
    silent, slow = connect(server, stack), connect(server, stack)
    began = time.monotonic()
    slow.sendall(b"GET / HT")
    time.sleep(0.6)
    slow.sendall(b"TP/1.1\r\nHo")  # a byte now and then does not help
    assert answered(server)
    status, message = error_of(all_of(slow))
    assert (status, message) == (408, "no request came within 1 s")
    assert all_of(silent) == b""
    assert 0.9 < time.monotonic() - began < 4


def test_a_head_that_does_not_end_after_an_answer(start: Callable[..., Any], stack: ExitStack) -> None:
    server = start("header_seconds=1", "idle_seconds=30")
    kept = connect(server, stack)
    kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert kept.recv(4096).startswith(b"HTTP/1.1 200")
    time.sleep(1.5)  # idle is another clock
    kept.sendall(b"GET /health")
    assert error_of(all_of(kept))[0] == 408


def test_a_body_that_comes_a_byte_a_second(start: Callable[..., Any], stack: ExitStack) -> None:
    server = start("body_seconds=1")
    slow = connect(server, stack)
    slow.sendall(HEAD + b"Content-Length: 5000\r\n\r\n")
    began = time.monotonic()
    slow.settimeout(0.3)
    got = b""
    while not got and time.monotonic() - began < 10:
        slow.sendall(b"x")
        try:
            got = slow.recv(4096)
        except TimeoutError:
            continue
    assert error_of(got + all_of(slow)) == (408, "the body came too slowly")
    assert 0.9 < time.monotonic() - began < 5
    assert answered(server)


def test_a_body_that_is_large_and_steady_has_the_time_it_needs(
    start: Callable[..., Any], stack: ExitStack
) -> None:
    """8 KiB a second for three seconds, where one second is allowed and each KiB gives one more."""
    server = start("body_seconds=1")
    steady = connect(server, stack)
    whole = json.dumps({"prompt": "T", "max_tokens": 2}).encode().ljust(24 << 10)
    steady.sendall(HEAD + f"Content-Length: {len(whole)}\r\nConnection: close\r\n\r\n".encode())
    for place in range(0, len(whole), 2048):
        steady.sendall(whole[place : place + 2048])
        time.sleep(0.25)
    assert all_of(steady).startswith(b"HTTP/1.1 200")


def test_a_client_that_reads_nothing_is_given_up(start: Callable[..., Any], stack: ExitStack) -> None:
    server = start("stall_seconds=1", "max_queue=300", "max_prompts=300")
    deaf = connect(server, stack)
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    body = json.dumps(
        {"prompt": ["T"] * 200, "max_tokens": 390, "ignore_eos": True, "stream": True, "logprobs": 20}
    ).encode()
    deaf.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    for _ in range(200):
        if 'path="/v1/completions"' in httpx.get(f"{server.url}/metrics").text:  # counted when it is over
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the connection of a client that does not read is still there")
    assert b"[DONE]" not in all_of(deaf)
    assert answered(server)


def test_idle_connections_are_closed(start: Callable[..., Any], stack: ExitStack) -> None:
    server = start("idle_seconds=1")
    kept = connect(server, stack)
    kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    began = time.monotonic()
    assert all_of(kept).endswith(b'{"status":"ok"}')
    assert 0.5 < time.monotonic() - began < 4


def test_too_many_connections_make_room_by_age(start: Callable[..., Any], stack: ExitStack) -> None:
    server = start("--step-ms", "20", "max_connections=20")
    busy = connect(server, stack)
    body = json.dumps({"prompt": "T", "max_tokens": 200, "ignore_eos": True, "stream": True}).encode()
    busy.sendall(HEAD + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    busy.recv(10)
    idle = [connect(server, stack) for _ in range(60)]
    assert answered(server)  # whoever asks is let in
    assert all_of(idle[0]) == b""  # and those who said nothing for longest have gone
    idle[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert all_of(idle[-1]).startswith(b"HTTP/1.1 200")
    assert all_of(busy).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")  # and who is answered stays


def test_when_all_are_busy_one_more_is_refused(start: Callable[..., Any], stack: ExitStack) -> None:
    server = start("--step-ms", "20", "max_connections=3")
    body = json.dumps({"prompt": "T", "max_tokens": 300, "ignore_eos": True, "stream": True}).encode()
    for _ in range(3):
        busy = connect(server, stack)
        busy.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        busy.recv(10)
    assert error_of(all_of(connect(server, stack)))[0] == 503


def test_what_is_not_http(start: Callable[..., Any], stack: ExitStack) -> None:
    server = start()
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"x" * 100_000):
        odd = connect(server, stack)
        odd.sendall(nonsense)
        assert error_of(all_of(odd))[0] == 400
    assert answered(server)


def test_a_request_after_a_refused_one_on_the_same_connection(start: Callable[..., Any]) -> None:
    server = start("api_key=correct-horse-battery")
    with httpx.Client(base_url=server.url) as client:
        for _ in range(3):
            assert client.post("/v1/completions", content=b"x" * 200_000).status_code == 401
            assert client.get("/health").status_code == 200


# --- TLS ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def pair(authority: trustme.CA, folder: Path, name: str = "127.0.0.1") -> tuple[Path, Path]:
    made = authority.issue_cert(name)
    certificate, key = folder / "chain.pem", folder / "key.pem"
    key.write_bytes(made.private_key_pem.bytes())
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    return certificate, key


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_https_with_the_official_client(
    start: Callable[..., Any], authority: trustme.CA, tmp_path: Path
) -> None:
    certificate, key = pair(authority, tmp_path)
    server = start(f"tls_cert={certificate}", f"tls_key={key}")
    assert server.url.startswith("https://127.0.0.1:")
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="x", http_client=httpx.Client(verify=trusting(authority))
    ) as client:
        stream = client.completions.create(model="speller", prompt="T", max_tokens=4, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream)
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(f"{server.url}/health")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(server.url.replace("https", "http") + "/health")


def test_only_clients_with_a_certificate(
    start: Callable[..., Any], authority: trustme.CA, tmp_path: Path
) -> None:
    certificate, key = pair(authority, tmp_path)
    clients = trustme.CA()
    roots = tmp_path / "clients.pem"
    clients.cert_pem.write_to_path(roots)
    server = start(f"tls_cert={certificate}", f"tls_key={key}", f"tls_client_ca={roots}")
    with pytest.raises(httpx.TransportError), httpx.Client(verify=trusting(authority)) as nobody:
        nobody.get(f"{server.url}/health")
    known = trusting(authority)
    clients.issue_cert("someone@example.org").configure_cert(known)
    with httpx.Client(verify=known) as client:
        assert client.get(f"{server.url}/health").status_code == 200


def test_a_new_certificate_without_a_restart(authority: trustme.CA, tmp_path: Path) -> None:
    certificate, key = pair(authority, tmp_path)
    held = Certificate(certificate, key, None)

    def serial() -> Any:
        """The certificate that a client is shown."""
        ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = held.context.wrap_bio(ours, theirs, server_side=True)
        client = trusting(authority).wrap_bio(theirs, ours, server_hostname="127.0.0.1")
        for _ in range(10):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        return client.getpeercert()["serialNumber"]  # type: ignore[index]

    first = serial()
    held.refresh()
    assert serial() == first
    certificate.write_text("half a file")
    held.refresh()
    assert serial() == first
    pair(authority, tmp_path)
    held.refresh()
    assert serial() != first


def test_what_is_no_certificate(start: Callable[..., Any], authority: trustme.CA, tmp_path: Path) -> None:
    certificate, key = pair(authority, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, wrong = pair(authority, other)
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    for arguments in ((nothing, key, None), (certificate, wrong, None), (tmp_path / "none", None, None),
                      (certificate, None, None), (certificate, key, nothing)):  # fmt: skip
        with pytest.raises(UsageError, match="cannot use"):
            Certificate(*arguments)
    refused = start(f"tls_cert={nothing}", "--load-s", "30")
    assert refused.process.wait(timeout=15) == 1  # known before the model is loaded
    assert "cannot use" in refused.end()[1]
    lonely = start(f"tls_key={key}")
    lonely.process.wait(timeout=15)
    assert "go with --tls-cert" in lonely.end()[1]
