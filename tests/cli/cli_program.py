"""The command line as a process of its own, on the make-believe model of tests/server."""

from __future__ import annotations

import os
from pathlib import Path

SERVER_TESTS = Path(__file__).parents[1] / "server"
PROGRAM = f"""
import os, sys
sys.path.insert(0, {str(SERVER_TESTS)!r})
from trimtab.server import opening

def open_fake(settings, on_words_read=None):
    import serving_fakes
    runner = serving_fakes.SpellingRunner(step_ms=float(os.environ.get("FAKE_STEP_MS", 0)))
    return serving_fakes.make_served(runner)

opening.open_served = open_fake
from trimtab.cli.main import main
main()
"""


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
