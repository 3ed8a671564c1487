"""A server process with the make-believe model of `serving_fakes.py`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from official_client import client_of

FAKES = Path(__file__).with_name("serving_fakes.py")


class ServerProcess:
    """A running server: its address, its process and how to end it."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, str(FAKES), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        """Ask it to stop and wait: exit code and what it wrote to stderr."""
        if self.process.poll() is None:
            self.process.terminate()
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    started = ServerProcess("--step-ms", "1")
    yield started
    _, err = started.end()
    assert "Traceback" not in err, err


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    """Asks the module's server; a module that asks in another way has its own."""
    with client_of(server) as made:
        yield made


@pytest.fixture
def start() -> Iterator[Callable[..., ServerProcess]]:
    """Start servers of one's own; they end with the test."""
    started: list[ServerProcess] = []

    def one(*arguments: str) -> ServerProcess:
        started.append(ServerProcess(*arguments))
        return started[-1]

    yield one
    for server in started:
        server.end()
