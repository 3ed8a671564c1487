"""The command line as a process of its own, on the make-believe model of tests/server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SERVER_TESTS = Path(__file__).parents[1] / "server"
sys.path.insert(0, str(SERVER_TESTS))

PROGRAM = f"""
import os, sys
sys.path.insert(0, {str(SERVER_TESTS)!r})
from trimtab.server import opening

def open_fake(settings):
    import serving_fakes
    runner = serving_fakes.SpellingRunner(step_ms=float(os.environ.get("FAKE_STEP_MS", 0)))
    return serving_fakes.make_served(runner)

opening.open_served = open_fake
from trimtab.cli.main import main
main()
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Nothing of the user's: an empty cache, no settings, no history."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
    own = {
        "TRIMTAB_CACHE": str(folder / "cache"),
        "TRIMTAB_MODEL": "speller",
        "XDG_STATE_HOME": str(folder / "state"),
        "HOME": str(folder),
        "COLUMNS": "100",
    }
    return kept | own | more


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
