"""A latency objective refuses what a prediction says cannot keep it, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fake_runner import FakeRunner, FakeTokenizer

from trimtab.engine.engine import Engine
from trimtab.engine.objective import Objective
from trimtab.engine.sampling import SamplingParams
from trimtab.errors import Busy
from trimtab.machine.requests.model import BatchFit, PromptCost, RequestModel

# 10 ms a prompt token, a step of 2 ms alone and 8 ms for four, and 10 us for each position.
ALPHA = PromptCost.of({1: 0.01, 100: 1.0, 200: 2.0}, {})
MODEL = RequestModel("m", "e", {}, {b: BatchFit(b, ALPHA, 2e-3 * b, 1e-5) for b in (1, 4)})


def request(prompt: int, computed: int = 0, output: int = 0, **more: Any) -> Any:
    return SimpleNamespace(**{
        "prompt_length": prompt, "tokens": range(prompt + output), "computed": computed, "age": (0, 0),
        "shares": False, "digests": [b""], "pooling": False, **more,
    })  # fmt: skip


def new(prompt: int, **more: Any) -> Any:
    return request(prompt, **{"age": (0, 9), **more})


def nothing(_: bytes) -> bool:
    return False


def test_the_first_token_waits_for_prompts_not_yet_computed() -> None:
    objective = Objective(MODEL, ttft_s=1.55)
    objective.check(new(50), [request(100)], nothing)
    objective.check(new(50), [request(100), request(100, 100, 7)], nothing)  # that one decodes already
    objective.check(new(100), [request(100, 50)], nothing)
    objective.check(new(100), [request(100, age=(1, 3))], nothing)  # of a later priority
    with pytest.raises(Busy, match=r"first token would take 2\.00 s, and 1\.55 s") as error:
        objective.check(new(100), [request(100)], nothing)
    assert error.value.retry_after_s == 1


def test_pages_that_are_held_or_promised_cost_nothing() -> None:
    objective = Objective(MODEL, ttft_s=1.2)
    pages = [b"", *(bytes([number]) for number in range(1, 7))]  # of 100 tokens, with a rest of 4
    same = {"shares": True, "digests": pages}
    with pytest.raises(Busy):
        objective.check(new(100, **same), [request(80)], nothing)
    objective.check(new(100, **same), [request(80)], lambda digest: digest in pages)
    objective.check(new(100, **same), [request(90, shares=True, digests=pages[:6])], nothing)
    with pytest.raises(Busy):  # a held page after one that is not is of no use
        objective.check(new(100, **same), [request(80)], lambda digest: digest in pages[2:])


def test_a_step_is_that_of_all_together() -> None:
    objective = Objective(MODEL, tpot_s=0.0095)
    objective.check(new(10), [request(20, 20, 1)] * 3, nothing)
    with pytest.raises(Busy, match="beside 3 others"):
        objective.check(new(100), [request(20, 20, 1)] * 3, nothing)
    objective.check(new(100, pooling=True), [request(20, 20, 1)] * 3, nothing)  # has no further tokens
    Objective(MODEL, tpot_s=0.0095, most_running=2).check(new(100), [request(20, 20, 1)] * 30, nothing)


def test_an_engine_refuses_by_it_and_counts_that() -> None:
    with Engine(FakeRunner(), FakeTokenizer()) as engine:
        params = SamplingParams(max_tokens=2, ignore_eos=True)
        engine.objective = Objective(MODEL, ttft_s=0.3)
        assert len(engine.submit([5] * 10, params).result().token_ids) == 2
        with pytest.raises(Busy, match="objective"):
            engine.submit([5] * 60, params)
        assert engine.stats()["requests"]["refused"] == 1
        engine.objective = None
        assert len(engine.submit([5] * 60, params).result().token_ids) == 2
        engine.objective = Objective(MODEL, ttft_s=0.3)  # that prompt is now held, but for its last tokens
        assert len(engine.submit([5] * 60, params).result().token_ids) == 2
