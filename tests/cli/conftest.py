"""Running `trimtab` to its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_program import PROGRAM, SERVER_TESTS, environment

sys.path.insert(0, str(SERVER_TESTS))

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(tmp_path: Path) -> Run:
    """Run `trimtab` with these arguments to its end."""

    def run(*arguments: str, stdin: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(tmp_path, **more),
        )

    return run
