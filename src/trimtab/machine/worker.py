"""A contender's process: started once, asked many times, stopped while another one is being timed.

Requests and answers are JSON, one a line. Between requests the whole process group is stopped by signal,
because an idle peer is rarely idle: thread pools spin for a while after their last task.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError

_TAIL_BYTES = 2_000
_LONGEST_LINE = 64 * 2**20


class WorkerFailed(TrimtabError):
    """A contender that could not do what it was asked."""


class Worker:
    """One contender's process. Use as a context manager, or `close` it.

    Parameters
    ----------
    name : for messages
    command : program and arguments; it answers `{"op": ..., ...}` lines as in `benchmarks/peers/protocol.py`
    environment : added to this process's own
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0, cwd=cwd,
            env={**os.environ, **(environment or {})}, start_new_session=True,
        )  # fmt: skip
        self._pending = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, op: str, *, timeout_seconds: float = 600, **arguments: Any) -> dict[str, Any]:
        """Ask for one operation and wait for its answer; the process runs only meanwhile.

        Raises
        ------
        WorkerFailed : it answered with an error, ended, or took too long (then it is killed)
        """
        self._signal(signal.SIGCONT)
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
        except OSError as error:
            raise WorkerFailed(f"{self.name} ended before `{op}`: {self._tail()}") from error
        answer: dict[str, Any] = json.loads(self._line(op, time.monotonic() + timeout_seconds))
        self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise WorkerFailed(f"{self.name} failed in `{op}`: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process and all it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, op: str, deadline: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        while b"\n" not in self._pending:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._signal(signal.SIGKILL)
                raise WorkerFailed(f"{self.name} did not finish `{op}` in time: {self._tail()}")
            piece = os.read(stdout.fileno(), 1 << 16)
            if not piece or len(self._pending) > _LONGEST_LINE:
                raise WorkerFailed(f"{self.name} ended in `{op}`: {self._tail()}")
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _tail(self) -> str:
        """The end of what the process said on stderr."""
        log = self._log.fileno()  # shared with the process: its position must not move
        size = os.fstat(log).st_size
        lines = os.pread(log, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace").splitlines()
        return " | ".join(filter(None, lines[-8:])) or "it said nothing"
