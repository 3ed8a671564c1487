"""Clients that do what they should not: the server stays quick for others, and keeps nothing of them.

Raw sockets against a real process. While a fault goes on another client's TPOT may rise by at most a fifth;
afterwards pages, requests, sockets and tasks are what they were.
"""

from __future__ import annotations

import json
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from outside import body, port_of, rises, settles, standing
from real_server import RealServer

MOST_RISE = 1.2
CONNECTIONS = 10_000
RESET = struct.pack("ii", 1, 0)  # close with a reset, as a process that dies does


@pytest.fixture(scope="module")
def server(default_model: Path) -> Iterator[RealServer]:
    raised = _allow_files(CONNECTIONS + 2_000)
    more = ["--max-connections", str(CONNECTIONS + 500), "--header-seconds", "600", "--body-seconds", "600"]
    with RealServer(str(default_model), "--context", "1024", *more) as server:
        server.complete("warm", max_tokens=4)
        yield server
        code, said = server.end()
        assert code == 0
        assert "Traceback" not in said, said
    resource.setrlimit(resource.RLIMIT_NOFILE, raised)


def _allow_files(count: int) -> tuple[int, int]:
    """Raise this process's limit (the server inherits it) as far as the system lets it; the limits before."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, before[1])))
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def connected(server: RealServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(server)), timeout=60)


def request(content: bytes, *headers: str, length: int | None = None) -> bytes:
    """The bytes of a completion request."""
    lines = [
        "POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json",
        f"Content-Length: {len(content) if length is None else length}", *headers,
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def story(tokens: int) -> bytes:
    return request(json.dumps(body("A long story", tokens)).encode())


def answer(client: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    with suppress(ConnectionError):
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@contextmanager
def again_and_again(work: Callable[[], None], pause_s: float) -> Iterator[None]:
    """Do something in a thread until left; what fails there fails here."""
    over, failed = threading.Event(), []

    def run() -> None:
        while not over.is_set():
            try:
                work()
            except Exception as error:
                failed.append(error)
                return
            over.wait(pause_s)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failed, failed


def test_clients_that_vanish_amid_their_streams(server: RealServer) -> None:
    before = standing(server)

    def vanish() -> None:
        with connected(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.sendall(story(900))
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")

    assert rises(server, lambda: again_and_again(vanish, 0.5)) <= MOST_RISE
    settles(server, before)


def test_a_hundred_that_vanish_at_once(server: RealServer) -> None:
    before = standing(server)
    clients = [connected(server) for _ in range(100)]
    for client in clients:
        client.sendall(story(900))
    for client in clients[
        :50
    ]:  # those are being answered or wait; the others' requests are not even read yet
        client.recv(1)
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
    settles(server, before)


def test_one_byte_a_second(server: RealServer) -> None:
    before = standing(server)
    content = story(4)

    @contextmanager
    def slowly() -> Iterator[None]:
        clients = [connected(server) for _ in range(200)]
        sent = iter(content)

        def one() -> None:
            with suppress(ConnectionError):
                byte = bytes([next(sent)])
                for client in clients:
                    client.send(byte)

        with again_and_again(one, 1.0):
            yield
        for client in clients:
            client.close()

    assert rises(server, slowly) <= MOST_RISE
    settles(server, before)


def test_a_slow_sender_is_answered_in_the_end(server: RealServer) -> None:
    with connected(server) as client:
        for byte in request(json.dumps(body("Quick", 2)).encode(), "Connection: close"):
            client.send(bytes([byte]))
            time.sleep(0.001)
        assert answer(client).startswith(b"HTTP/1.1 200")


def test_bodies_of_a_hundred_megabytes(server: RealServer) -> None:
    before, resident = standing(server), server.status("VmRSS")
    megabyte = b" " * (1 << 20)

    def huge(chunked: bool) -> bytes:
        with connected(server) as client:
            if chunked:
                head = request(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
            else:
                head = request(b"", length=100 << 20)
            client.sendall(head)
            with suppress(ConnectionError):
                for _ in range(100):
                    client.sendall(b"100000\r\n" + megabyte + b"\r\n" if chunked else megabyte)
            return answer(client)

    # A declared length is refused at once. The reset that follows may overtake the answer.
    said = huge(chunked=False)
    assert said == b"" or said.startswith(b"HTTP/1.1 413")
    said = huge(chunked=True)
    assert said == b"" or said.startswith(b"HTTP/1.1 413")
    assert rises(server, lambda: again_and_again(lambda: bool(huge(False)) and None, 0.5)) <= MOST_RISE
    settles(server, before)
    # At most the limit of one body (32 MiB) was ever held; some of it may stay with the allocator.
    assert server.status("VmRSS") - resident < 64 << 20


def test_a_refusal_of_a_large_body_reaches_a_client_that_listens(server: RealServer) -> None:
    with connected(server) as client:
        client.sendall(request(b"", length=100 << 20))
        said = answer(client)
    assert said.startswith(b"HTTP/1.1 413")
    assert b'"error"' in said


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "\xff\xfe\x80", "max_tokens": 4}',
        b"\xff" * 1000,
        b'{"prompt": "\\ud800", "max_tokens": 4}',
    ],
    ids=["inside a string", "everywhere", "half a surrogate"],
)
def test_invalid_unicode(server: RealServer, content: bytes) -> None:
    before = standing(server)
    said = server.client.post(
        "/v1/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert said.status_code == 400
    assert said.json()["error"]["message"]

    def send() -> None:
        with connected(server) as client:
            client.sendall(request(content, "Connection: close"))
            assert answer(client).startswith(b"HTTP/1.1 400")

    assert rises(server, lambda: again_and_again(send, 0.05)) <= MOST_RISE
    settles(server, before)


def test_floods_of_headers(server: RealServer) -> None:
    before = standing(server)

    def flood() -> None:
        with connected(server) as client:
            with suppress(ConnectionError):
                client.sendall(b"GET /health HTTP/1.1\r\n")
                for number in range(100):
                    client.sendall(b"".join(b"X-%d-%d: %s\r\n" % (number, i, b"y" * 100) for i in range(100)))
            with suppress(ConnectionError):
                said = answer(client)
                assert said == b"" or said.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))

    flood()
    assert rises(server, lambda: again_and_again(flood, 0.2)) <= MOST_RISE
    resident = server.status("VmRSS")  # pages of the requests just now included
    for _ in range(30):
        flood()
    settles(server, before)
    assert server.status("VmRSS") - resident < 32 << 20


def test_nonsense_instead_of_http(server: RealServer) -> None:
    before = standing(server)
    for nonsense in (b"\x16\x03\x01" + b"\x00" * 200, b"\r\n" * 5000, b"GET\r\n\r\n", b"x" * 100_000):
        with connected(server) as client:
            with suppress(ConnectionError):
                client.sendall(nonsense)
                client.shutdown(socket.SHUT_WR)
            said = answer(client)
            assert said == b"" or said.startswith(b"HTTP/1.1 4"), nonsense[:20]
    settles(server, before)


def test_half_closed_sockets(server: RealServer) -> None:
    """A client that has said all it has to say may be answered or dropped, but never kept."""
    before = standing(server)
    clients = [connected(server) for _ in range(50)]
    for number, client in enumerate(clients):
        client.sendall((story(900), story(900)[:100], b"", b"POST ")[number % 4])
        client.shutdown(socket.SHUT_WR)
    for client in clients:
        answer(client)
        client.close()
    settles(server, before)


def test_a_client_that_never_reads(server: RealServer) -> None:
    before = standing(server)

    @contextmanager
    def unread() -> Iterator[None]:
        clients = [connected(server) for _ in range(4)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(story(60))
        time.sleep(2.0)  # until they have their tokens: a batch of five is another figure
        yield
        for client in clients:
            client.close()

    assert rises(server, unread) <= MOST_RISE
    settles(server, before)


def test_ten_thousand_open_connections(server: RealServer, capsys: pytest.CaptureFixture[str]) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500
    count = min(CONNECTIONS, allowed)
    if count < CONNECTIONS:
        with capsys.disabled():
            print(f"\nthis system allows {count} of {CONNECTIONS} connections")
    before = standing(server)
    opened: list[int] = []

    @contextmanager
    def idle() -> Iterator[None]:
        clients = []
        try:
            for number in range(count):
                client = connected(server)
                clients.append(client)
                if number % 3 == 1:
                    client.send(b"GET /health HTTP/1.1\r\nHost: x\r\n")
            assert server.client.get("/health").status_code == 200
            opened.append(standing(server).sockets - before.sockets)
            yield
        finally:
            for client in clients:
                client.close()

    assert rises(server, idle) <= MOST_RISE
    # The connection of this test's own client may have been counted before.
    assert max(opened) >= count - 5
    settles(server, before)
