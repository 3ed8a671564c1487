"""Damaged and hostile files end in an error that names the file: no crash, no hang, no huge allocation.

Over 20,000 cases a run. They are read in processes with 128 MB of address space to spare; a reader that
believed a length would end in MemoryError there, and one that read outside the file in a signal.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("fuzz_worker.py")
LIMIT_S = 1_200  # a busy machine; alone, a run takes some ten seconds

pytestmark = pytest.mark.timeout(LIMIT_S + 60)


def fuzz(kind: str, seed: int, cases: int, folder: Path, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "error", str(WORKER), kind, str(seed), str(cases), str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stderr[-2_000:]}"
    report: dict[str, Any] = json.loads(done.stdout)
    assert not report["failed"], f"{report['failed']} of {cases} cases\n" + "\n".join(report["failures"])
    assert report["cases"] == cases == sum(report["ends"].values())
    return report


@pytest.mark.parametrize(("kind", "cases"), [("gguf", 12_500), ("safetensors", 7_500)])
def test_small_files(kind: str, cases: int, tmp_path: Path) -> None:
    report = fuzz(kind, 0, cases, tmp_path)
    # The damage is not so great that everything fails at the first byte, nor so small that all is read.
    assert report["ends"]["BadFile"] > 3_000
    assert report["ends"]["Unsupported"] > 20
    assert report["ends"]["read"] > 200


def test_the_default_model(default_model: Path, tmp_path: Path) -> None:
    report = fuzz("default", 0, 100, tmp_path, str(default_model))
    assert report["ends"]["BadFile"] > 30


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_more_small_files(kind: str, seed: int, tmp_path: Path) -> None:
    fuzz(kind, seed, 20_000, tmp_path)
