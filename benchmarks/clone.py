"""From a clean copy of the sources, `make serve` answers a chat and `make test` passes, nothing prepared.

Both run in a copy of the tracked files in a fresh folder, with an empty model cache, an empty package cache
and no virtual environment, each once: the wall time is what a newcomer waits. Most of it is the package index
and the compiler, so it says more about the network and the cores than about trimtab.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.probe import describe
from trimtab.machine.report import Report, command_line, versions

ROOT = Path(__file__).resolve().parent.parent
LONGEST_SERVE_S = 900.0
LONGEST_TEST_S = 3_600.0


def run(options: BenchOptions) -> Report:
    """Time both; with `--quick` only `make serve`."""
    rows = [_row("make serve, to the first answer", _serve)]
    if not options.quick:
        rows.append(_row("make test, to its last line", _test))
    return Report(
        name="clone",
        claim="A clean copy serves a real model with one command and passes its tests with another.",
        machine=asdict(describe()),
        versions=versions(),
        command=command_line(),
        seeds=[],
        samples={row["what"]: [row["wall_seconds"]] for row in rows},
        result={
            "table": rows,
            "unit": "s: " + ", ".join(f"{row['what']} {row['wall_seconds']:.0f}" for row in rows),
            "targets": [target(row["what"].partition(",")[0], float(row["worked"]), least=1) for row in rows],
        },
    )


def _row(what: str, command: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="trimtab-clone-") as name:
        copy = Path(name) / "trimtab"
        _copy_tracked(copy)
        env = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS"}}
        env |= {"TRIMTAB_CACHE": f"{name}/models", "PIP_CACHE_DIR": f"{name}/packages"}
        start = time.monotonic()
        worked, said = command(copy, env)
        return {
            "what": what,
            "wall_seconds": round(time.monotonic() - start, 1),
            "worked": worked,
            "said": said,
        }


def _copy_tracked(copy: Path) -> None:
    """What `git clone` would bring, with the changes not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)


def _serve(copy: Path, env: dict[str, str]) -> tuple[bool, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["make", "serve", f"PORT={port}"]
    with (copy / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=copy, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            answer = _first_answer(f"http://127.0.0.1:{port}", process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)
    return (True, answer) if answer else (False, (copy / "serve.log").read_text(errors="replace")[-2_000:])


def _first_answer(url: str, process: subprocess.Popen[bytes]) -> str:
    """The reply to one chat message, asked as soon as the server takes it; empty when there never was one."""
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    deadline = time.monotonic() + LONGEST_SERVE_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return str(json.loads(reply.read())["choices"][0]["message"]["content"])
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.25)
    return ""


def _test(copy: Path, env: dict[str, str]) -> tuple[bool, str]:
    done = subprocess.run(
        ["make", "test"],
        cwd=copy,
        env=env,
        capture_output=True,
        text=True,
        timeout=LONGEST_TEST_S,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode and lines:
        return False, "; ".join(
            [lines[-1], *(line for line in lines if line.startswith(("FAILED", "ERROR")))]
        )
    return done.returncode == 0, lines[-1] if lines else done.stderr[-2_000:]
