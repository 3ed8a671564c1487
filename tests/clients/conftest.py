"""A real server that every client test of this folder speaks to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))


@pytest.fixture(scope="module")
def served(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`trimtab serve` with the default model and a state folder of its own."""
    from real_server import RealServer

    state = tmp_path_factory.mktemp("state")
    with RealServer(str(default_model), "--name", "smollm2", "--state-dir", str(state)) as server:
        yield server
