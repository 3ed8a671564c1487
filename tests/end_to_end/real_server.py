"""`trimtab` as a user starts it: processes of their own, and clients on the other side of a socket."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

PROGRAM = [sys.executable, "-c", "from trimtab.cli.main import main; main()"]
PATIENCE_S = 240.0
"""For a process to start or to end. Answers have all the time that the test has."""


def trimtab(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE_S,
        **{"stdin": subprocess.DEVNULL, **options},
    )  # fmt: skip


class RealServer:
    """`trimtab serve MODEL` on a free port.

    Parameters
    ----------
    arguments : model and options
    """

    def __init__(self, *arguments: str) -> None:
        command = [*PROGRAM, "serve", *arguments, "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self.url = ""
        self._announced = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._announced.wait(PATIENCE_S)
        if not self.url:
            self.process.kill()
            self.process.wait()
        assert self.url, "".join(self.said)
        self.client = httpx.Client(base_url=self.url, timeout=None, trust_env=False)

    def complete(self, prompt: str | list[int], **more: Any) -> Any:
        """The first choice of a greedy completion."""
        body = {"prompt": prompt, "temperature": 0, **more}
        answer = self.client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]

    def status(self, field: str) -> int:
        """A size of the process out of the kernel's books, in bytes; `VmHWM` is the peak of `VmRSS`."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
        assert found, text
        return int(found[1]) * 1024

    def end(self) -> tuple[int, str]:
        """Ask it to stop and wait: exit code, and all it wrote to stderr."""
        self.process.terminate()
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code, "".join(self.said)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.said.append(line)
                if found := re.search(r" at (http://\S+)/v1 ", line):
                    self.url = found[1]
                    self._announced.set()
        self._announced.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
