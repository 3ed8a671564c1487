"""The made-up machine of tests/machine, and the browser of tests/server."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]
for folder in ("machine", "server"):
    sys.path.insert(0, str(TESTS / folder))
