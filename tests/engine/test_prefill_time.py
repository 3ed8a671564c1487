"""Prompts predicted by parts: every product is counted as often as the model runs it, the rest is timed."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab import _native
from trimtab.engine import prefill_time
from trimtab.engine.prefill_time import Planner, prompt_steps
from trimtab.errors import NotMeasured
from trimtab.formats.source import open_source
from trimtab.kernels.chooser import KernelChooser
from trimtab.machine.gemm.blocking import DEFAULT, Blocking
from trimtab.machine.gemm.collect import Task
from trimtab.machine.gemm.model import Prediction
from trimtab.models.config import ModelConfig, config_from

sys.path.append(str(Path(__file__).parents[1] / "models"))
from tiny import make_variant


class Counting:
    """A predictor by which every multiply-add takes a nanosecond."""

    ranges = {("bf16", 1): None, ("int8", 1): None}  # noqa: RUF012

    def __init__(self) -> None:
        self.asked: list[Task] = []

    def nearest_format(self, format: str, threads: int) -> str:
        if (format, threads) not in self.ranges:
            raise NotMeasured(f"nothing of {format}", "measure it")
        return format

    def predict_all(self, tasks: Any) -> list[Prediction]:
        self.asked += tasks
        found = [task.shape.ops / 2 * 1e-9 for task in tasks]
        return [Prediction(each, each / 2, each * 2, each / 4, "compute", True) for each in found]

    def predict(self, format: str, shape: Any, threads: int) -> Prediction:
        return self.predict_all([Task(format, threads, shape)])[0]


def weights_of(config: ModelConfig) -> int:
    """Multiply-adds of one token in the layers."""
    attention = config.hidden * (2 * config.q_width + 2 * config.kv_width)
    return config.layers * (attention + 3 * config.hidden * config.mlp)


@pytest.fixture(params=["llama", "gemma3", "phi3"])
def model(request: Any, tmp_path: Path) -> Path:
    return make_variant(request.param, tmp_path, "bfloat16")


def planner_of(path: Path, **how: Any) -> tuple[Planner, ModelConfig]:
    with closing(open_source(path)) as source:
        config = config_from(source)
        given: dict[str, Any] = {"threads": 1, "chooser": KernelChooser()} | how
        return Planner(Counting(), source, config, **given), config  # type: ignore[arg-type]


def test_every_product_of_every_token_is_counted(model: Path) -> None:
    planner, config = planner_of(model, step_rows=16)
    told = planner.predict(40)  # steps of 16, 16 and 8 rows
    assert told.layers_s == pytest.approx(40 * weights_of(config) * 1e-9)
    assert told.head_s == pytest.approx(config.vocab_size * config.hidden * 1e-9)
    assert told.bound_s == pytest.approx((told.layers_s + told.head_s) / 4)
    assert told.other_s > 0
    assert {"norm", "rope_store", "attend", "embed", "angles"} <= set(told.parts)
    assert not {"multiply", "gated", "head"} & set(told.parts)
    assert told.low_s < told.seconds < told.high_s
    assert told.seconds == pytest.approx(told.layers_s + told.head_s + told.other_s)


def test_blockings_are_those_of_the_loaded_model(tmp_path: Path) -> None:
    class Chosen(KernelChooser):
        def _picked(self, *layer: Any) -> list[Any]:
            return [_native.Blocking(0, 0, 0, 1 + kind) for kind in range(len(_native.ROW_CLASSES) + 1)]

    planner, _ = planner_of(make_variant("llama", tmp_path, "bfloat16"), chooser=Chosen(), step_rows=8)
    planner.predict(9)
    by_rows = {task.shape.m: task.blocking for task in planner.predictor.asked if task.blocking != DEFAULT}  # type: ignore[attr-defined]
    assert by_rows == {8: Blocking(0, 0, 0, 4), 1: Blocking(0, 0, 0, 1)}


def test_formats_nobody_measured_are_said(tmp_path: Path) -> None:
    planner, _ = planner_of(make_variant("llama", tmp_path, "bfloat16"), format="q8")
    with pytest.raises(NotMeasured, match="q8"):
        planner.predict(4)


def test_the_steps_of_a_prompt_cover_it_once() -> None:
    tokens = list(range(50))
    steps = list(prompt_steps(tokens, 20))
    assert np.concatenate([step.tokens for step in steps]).tolist() == tokens
    assert np.concatenate([step.positions for step in steps]).tolist() == tokens
    assert [len(step.wanted) for step in steps] == [0, 0, 1]
    assert steps[-1].wanted.tolist() == [9]


def test_operations_are_timed_by_kind(tmp_path: Path) -> None:
    """Every kind of operation has its time, of products and of all else."""
    folder = make_variant("llama", tmp_path, "bfloat16")
    planner, config = planner_of(folder)
    with (
        closing(open_source(folder)) as source,
        closing(prefill_time.open_for(source, config, 64, planner)) as runner,
    ):
        parts = prefill_time.operation_seconds(runner, 64, 64, 3)
        assert set(parts) >= {"multiply", "gated", "norm", "attend", "head"}
        assert all(seconds > 0 for seconds in parts.values())
