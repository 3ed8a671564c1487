"""Blockings of a model's layers: answers do not depend on them, and only a table that may be used is."""

from __future__ import annotations

import json
import random
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab import _native
from trimtab.engine import blocking
from trimtab.engine.runner import NativeRunner
from trimtab.formats.source import open_source
from trimtab.kernels.chooser import KernelChooser
from trimtab.machine.probe import describe
from trimtab.models.config import config_from

sys.path.append(str(Path(__file__).parents[1] / "models"))
from tiny import make_variant, num_pages_for, run_in_chunks, some_tokens

CLASSES = len(_native.ROW_CLASSES) + 1
SEQUENCES = [some_tokens(140), some_tokens(33, 1), some_tokens(5, 2)]
CHUNKS = [[100, 1, 39], [1, 0, 32], [0, 0, 5]]


class Random(KernelChooser):
    """Any blocking for any layer and row count."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)

    def _picked(self, *layer: Any) -> list[Any]:
        pick = self.chance.choice
        return [
            _native.Blocking(pick(range(13)), pick(range(5)), pick([0, 1, 4096]), pick([0, 1, 2, 3, 7]))
            for _ in range(CLASSES)
        ]


@pytest.mark.parametrize("format", ["bf16", "int8", "q4", "q8"])
def test_answers_do_not_depend_on_the_blocking(format: str, tmp_path: Path) -> None:
    folder = make_variant("llama", tmp_path, "bfloat16")

    def logits(chooser: KernelChooser, threads: int) -> list[Any]:
        with open_source(folder) as source:
            runner = NativeRunner.open(
                source, config_from(source), num_pages=num_pages_for(SEQUENCES), max_rows=160, max_wanted=160,
                context=256, threads=threads, format=format, chooser=chooser,
            )  # fmt: skip
        with closing(runner):
            return run_in_chunks(runner.logits, SEQUENCES, CHUNKS)

    expected = logits(KernelChooser(), 1)
    for seed in range(3):
        for one, other in zip(logits(Random(seed), 1 + seed % 2), expected, strict=True):
            assert np.array_equal(one, other)


def written(path: Path, **changed: Any) -> Path:
    told = {"outputs": [64], "inputs": [64], "ways": [[0, 1, 0, 5]], "picks": "0 " * CLASSES}
    section = {"date": datetime.now(UTC).isoformat(), "steal": 0.0, "others": 0.0} | changed.pop(
        "section", {}
    )
    content = {
        "schema": "blocking/1", "kernels": "avx512", "processor": describe().processor, "section": section,
        "threads": {"2": {"q4": {"plain": told}}},
    }  # fmt: skip
    path.write_text(json.dumps(content | changed))
    return path


def test_a_table_is_used_by_the_rules_of_the_profile(tmp_path: Path) -> None:
    path = tmp_path / "profile.blocking.json"
    assert blocking.table_path(tmp_path / "profile.json") == path
    assert "there is none" in blocking.refusal(path)
    assert blocking.chooser("avx512", 2, path).table == {}
    assert not blocking.refusal(written(path))
    assert blocking.chooser("avx512", 2, path).table
    old = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    for change, reason in (
        ({"processor": "another one"}, "another machine"),
        ({"section": {"date": old}}, "40 days"),
        ({"section": {"steal": 0.3}}, "30% stolen"),
        ({"section": {"unknown": 1}}, "cannot be read"),
        ({"section": {"date": "yesterday"}}, "cannot be read"),
    ):
        assert reason in blocking.refusal(written(path, **change))
        assert blocking.chooser("avx512", 2, path).table == {}
    path.write_text("[")
    assert "cannot be read" in blocking.refusal(path)
    assert blocking.chooser("avx512", 2, path).table == {}
    assert blocking.chooser("avx512", 3, written(path)).table == {}
