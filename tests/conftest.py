"""What every test may use: the default model on disk, a server of it, hypothesis profiles without a clock.

The default model is fetched once into the user's cache by the same code that `trimtab pull` runs. Without a
network and without a cached copy the tests that need it fail with the Offline error; they are never skipped.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A shell that starts the tests in the background makes Ctrl-C ignored, here and in every program they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines: a shared two-core machine stalls for reasons that say nothing about the code.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=60, **_COMMON)
settings.register_profile("ci", max_examples=60, derandomize=True, print_blob=True, **_COMMON)
settings.register_profile("long", max_examples=2_000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A state folder of the tests' own: nobody's real keys decide who may ask a server of a test."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, pulled if it is not there yet."""
    from trimtab.formats import cache

    return cache.resolve("smollm2", pull=True)


@pytest.fixture(scope="session")
def trimtab_on_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to put first on PATH: its `trimtab` and `python` are this interpreter's, installed or not."""
    folder = tmp_path_factory.mktemp("bin")
    for name, arguments in (("trimtab", '-c "from trimtab.cli.main import main; main()"'), ("python", "")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def server_address(
    trimtab_on_path: Path, default_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """host:port of a `trimtab serve smollm2` that lives as long as the test session."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    command = [str(trimtab_on_path / "trimtab"), "serve", "smollm2", "--host", host, "--port", port]
    command += ["--state-dir", str(tmp_path_factory.mktemp("state"))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(300):
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"`{' '.join(command)}` ended with {process.returncode}"
                time.sleep(0.1)
        else:
            process.kill()
            raise TimeoutError(f"`{' '.join(command)}` did not listen within 30 s")
        yield address
        process.terminate()
        process.wait(timeout=30)
