"""Runs requests against a recorded server and gathers what both sides saw.

The server is `trimtab serve`, started here or already running, and is asked to record itself; the requests go
over HTTP as anybody's do. What comes back is the server's own recording beside the latencies of its client.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from trimtab.errors import Offline, TrimtabError, UsageError
from trimtab.evaluate.started import Process
from trimtab.machine.dissect.dissection import Seen
from trimtab.machine.spans import Recording

ROUTES = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
RECORDING = "/console/api/recording"
START_S, MOST_S = 120.0, 120.0
CHARACTERS_PER_TOKEN = 4.2


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the server.

    Parameters
    ----------
    prompt_tokens : of each request, about; the template's own come on top
    batch : requests under way at a time
    requests : in all
    """

    prompt_tokens: int = 128
    output_tokens: int = 64
    batch: int = 1
    requests: int = 8
    route: str = "chat"
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.route not in ROUTES:
            raise UsageError(f"no route `{self.route}`", f"there is {', '.join(ROUTES)}", "route")
        for name in ("prompt_tokens", "output_tokens", "batch", "requests"):
            if getattr(self, name) < 1:
                raise UsageError(f"{getattr(self, name)} {name.replace('_', ' ')}", "at least 1", name)


@dataclass(slots=True)
class Client:
    """A server's address, and what its requests carry."""

    address: str
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme != "http" or not parts.hostname:
            raise UsageError(
                f"`{self.address}` is no address", "give one such as http://127.0.0.1:8000", "url"
            )
        key = os.environ.get("TRIMTAB_API_KEY")
        if key:
            self.headers["Authorization"] = f"Bearer {key}"

    def open(self, timeout_s: float = 600.0) -> http.client.HTTPConnection:
        parts = urlsplit(self.address)
        return http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)

    def ask(self, method: str, path: str, body: Any = None, timeout_s: float = 600.0) -> tuple[int, bytes]:
        """Status and content of one request.

        Raises
        ------
        Offline : nobody answers
        """
        try:
            with contextlib.closing(self.open(timeout_s)) as connection:
                content = None if body is None else json.dumps(body)
                connection.request(method, path, content, self.headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Offline(f"{self.address} does not answer: {error}") from error

    def stream(self, path: str, body: Any) -> tuple[str, Seen]:
        """One streamed answer: its id, and when its first text and its end came.

        Raises
        ------
        TrimtabError : the server refuses it, or its stream breaks off
        """
        sent = time.perf_counter()
        with contextlib.closing(self.open()) as connection:
            connection.request("POST", path, json.dumps({**body, "stream": True}), self.headers)
            answer = connection.getresponse()
            if answer.status != 200:
                text = answer.read(400).decode(errors="replace")
                raise TrimtabError(f"{self.address} answers {answer.status}: {text}")
            first, name = 0.0, answer.getheader("x-request-id") or ""
            for line in answer:
                if not line.startswith(b"data:"):
                    continue
                if b"[DONE]" in line:
                    answer.read()  # what is left: the stream's own end
                    return name, Seen(first, time.perf_counter() - sent)
                if b'"error"' in line[:20]:
                    raise TrimtabError(f"a stream of {self.address} broke off: {line[:300].decode()}")
                first = first or time.perf_counter() - sent
        raise TrimtabError(f"a stream of {self.address} ended early")


@contextlib.contextmanager
def server(model: str, flags: Sequence[str] = (), address: str | None = None) -> Iterator[Client]:
    """A `trimtab serve` of one's own, or the one at `address`.

    Raises
    ------
    Offline : it does not come up; the message ends with its last words
    """
    if address is not None:
        yield Client(address)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from trimtab.cli.main import main; main()"
    command = [sys.executable, "-c", program, "serve", model, "--port", str(port), *flags]
    process = Process(command, {"TRIMTAB_API_KEY": ""})
    try:
        client = Client(f"http://127.0.0.1:{port}")
        _wait(client, process)
        yield client
    finally:
        process.close()


def run(
    client: Client, load: Load, say: Callable[[str], None] = lambda line: None
) -> tuple[Recording, dict[str, Seen]]:
    """Warm the server, record it while the load runs, and return both sides' account.

    Raises
    ------
    Offline, TrimtabError : the server does not answer, refuses, or may not be recorded
    """
    model = _model(client)
    warm = Load(load.prompt_tokens, min(16, load.output_tokens), load.batch, load.batch + 1, load.route,
                load.temperature, load.seed + 1)  # fmt: skip
    say("warming up")
    send(client, model, warm)
    answers: list[tuple[int, bytes] | Exception] = []

    def record() -> None:
        try:
            path = f"{RECORDING}?seconds={MOST_S:g}&format=recording"
            answers.append(client.ask("POST", path, timeout_s=MOST_S + 60))
        except Exception as error:  # handed to the caller's thread
            answers.append(error)

    recorder = threading.Thread(target=record, daemon=True)
    recorder.start()
    while not answers and not json.loads(client.ask("GET", RECORDING)[1]).get("recording"):
        time.sleep(0.01)
    say(f"recording {load.requests} requests, {load.batch} at a time")
    try:
        seen = {} if answers else send(client, model, load)
    finally:
        client.ask("DELETE", RECORDING)
        recorder.join()
    answer = answers[0]
    if isinstance(answer, Exception):
        raise answer
    status, content = answer
    if status != 200:
        raise TrimtabError(
            f"{client.address} is not recorded: {status}: {content[:300].decode(errors='replace')}"
        )
    return Recording.from_bytes(content), seen


def send(client: Client, model: str, load: Load) -> dict[str, Seen]:
    """Send the load, `batch` at a time, each as soon as the one before is through; by the answers' ids."""
    bodies = _bodies(model, load)
    seen: dict[str, Seen] = {}
    failed: list[Exception] = []

    def work() -> None:
        while not failed:
            try:
                body = bodies.pop()
            except IndexError:
                return
            try:
                name, found = client.stream(ROUTES[load.route], body)
                seen[name] = found
            except Exception as error:  # handed to the caller's thread
                failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(min(load.batch, load.requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        error = failed[0]
        raise error if isinstance(error, TrimtabError) else Offline(f"{client.address}: {error}")
    return seen


def median_latency(seen: dict[str, Seen]) -> float:
    return statistics.median(each.total_s for each in seen.values())


def _bodies(model: str, load: Load) -> list[dict[str, Any]]:
    """Stretches of the bundled text behind a random word each, so that no prompt has been seen before."""
    text = resources.files("trimtab").joinpath("data/text.txt").read_text(encoding="utf-8")
    draw = random.Random(load.seed)
    length = max(1, round((load.prompt_tokens - 4) * CHARACTERS_PER_TOKEN))
    bodies = []
    for _ in range(load.requests):
        word = "".join(draw.choices("bcdfghjklmnpqrstvwxz", k=6))
        while len(text) <= length:
            text += text
        at = draw.randrange(len(text) - length)
        said = f"{word} {text[at : at + length]}"
        body: dict[str, Any] = {
            "model": model, "max_tokens": load.output_tokens, "temperature": load.temperature,
            "ignore_eos": True,
        }  # fmt: skip
        if load.route == "chat":
            body["messages"] = [{"role": "user", "content": said}]
        else:
            body["prompt"] = said
        bodies.append(body)
    return bodies


def _model(client: Client) -> str:
    status, content = client.ask("GET", "/v1/models")
    if status != 200:
        raise TrimtabError(f"{client.address} answers {status}: {content[:300].decode(errors='replace')}")
    return str(json.loads(content)["data"][0]["id"])


def _wait(client: Client, process: Process) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            if client.ask("GET", "/ready", timeout_s=5)[0] == 200:
                return
        except Offline:
            pass
        if process.ended or time.monotonic() > deadline:
            raise Offline(f"trimtab does not serve: {process.tail()}")
        time.sleep(0.05)
