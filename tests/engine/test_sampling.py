"""SamplingParams refuse what they must, pack exactly, and the reference does what its docstring says."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.sampling import (
    ADJUST,
    SAMPLING,
    SamplingParams,
    adjust_entries,
    allowed_tokens,
    sample_reference,
    sampling_row,
    uniform,
)
from trimtab.errors import UsageError


def choose(logits: list[float], seed: int = 0, draw: int = 0, mask: Any = None, **settings: Any) -> int:
    params = SamplingParams(**settings)
    row = sampling_row(params, seed, draw=draw)[0]
    return sample_reference(np.array(logits, np.float32), row, adjust_entries(params), mask).token


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "1"),
        ("temperature", True),
        ("top_p", 1.01),
        ("top_p", None),
        ("top_k", -1),
        ("top_k", 2.0),
        ("min_p", -1e-9),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-60),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logit_bias", {1: 101.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"5": 1.0}),
        ("logit_bias", [1]),
        ("seed", 1.5),
        ("seed", 2**64),
        ("stop", ("",)),
        ("stop", 3),
        ("stop", ("x",) * 65),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", "1"),
        ("max_tokens", -1),
        ("min_tokens", 17),
        ("ignore_eos", 1),
        ("logprobs", 21),
        ("prompt_logprobs", -1),
        ("n", 0),
    ],
)
def test_wrong_values_are_refused_by_name(param: str, value: Any) -> None:
    with pytest.raises(UsageError, match=param) as caught:
        SamplingParams(**{param: value})
    assert caught.value.param == param


def test_params_are_frozen_hashable_and_normalised() -> None:
    params = SamplingParams(stop="END", stop_token_ids=[3, 4], logit_bias={7: 1})  # type: ignore[arg-type]
    assert params.stop == ("END",)
    assert params.stop_token_ids == (3, 4)
    assert hash(params) == hash(SamplingParams(stop=("END",), stop_token_ids=(3, 4)))
    assert params.adjusts
    assert not params.penalises
    with pytest.raises(FrozenInstanceError):
        params.n = 2  # type: ignore[misc]


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    SamplingParams(logit_bias={9: 1.0}, stop_token_ids=(9,)).check_vocab(10)
    with pytest.raises(UsageError, match="logit_bias is 10"):
        SamplingParams(logit_bias={10: 1.0}).check_vocab(10)
    with pytest.raises(UsageError, match="stop_token_ids is 12"):
        SamplingParams(stop_token_ids=(12,)).check_vocab(10)


def test_row_layout() -> None:
    assert (SAMPLING.itemsize, ADJUST.itemsize) == (56, 16)
    assert SAMPLING.fields is not None
    assert SAMPLING.fields["seed"][1] == 40  # as the C++ struct has it
    row = sampling_row(SamplingParams(temperature=0.5, top_k=3, logprobs=2), seed=-1, draw=9)
    assert row["seed"][0] == 2**64 - 1
    assert (row["draw"][0], row["top_k"][0], row["top_logprobs"][0], row["score"][0]) == (9, 3, 2, -1)
    assert sampling_row(SamplingParams(), 0)["top_logprobs"][0] == -1


def test_adjust_entries_count_prompt_and_output() -> None:
    params = SamplingParams(repetition_penalty=1.1, logit_bias={5: -2.0})
    assert adjust_entries(params, [3, 3, 4], [4, 4]).tolist() == [
        (3, 0, 1, 0.0),
        (4, 2, 1, 0.0),
        (5, 0, 0, -2.0),
    ]
    only_output = SamplingParams(presence_penalty=1.0)
    assert adjust_entries(only_output, [3], [4]).tolist() == [(4, 1, 0, 0.0)]
    assert adjust_entries(SamplingParams(), [3], [4]).size == 0


def test_uniform_is_pinned() -> None:
    """Seeds must mean the same in every release and in the native code."""
    assert uniform(0, 0) == 0.7012121095215252
    assert uniform(2**64 - 1, 2**64 - 1) == 0.3662420901697574
    draws = np.array([uniform(seed, draw) for seed in range(60) for draw in range(60)])
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert np.square(counts - 180).sum() / 180 < 43.8  # chi-square, 19 degrees, 0.1 %


def test_greedy_takes_the_first_of_equals_and_never_nan() -> None:
    assert choose([1.0, 3.0, 3.0, math.nan], temperature=0) == 1
    assert choose([math.nan, -math.inf, -5.0], temperature=0) == 2
    assert choose([math.nan, math.nan], temperature=0) == 0
    assert choose([0.0, -0.0], temperature=0) == 0


def test_penalties_and_bias_move_the_choice() -> None:
    logits = np.array([2.0, 1.9, -1.0], np.float32)

    def pick(output: list[int], **settings: Any) -> int:
        params = SamplingParams(temperature=0, **settings)
        return sample_reference(logits, sampling_row(params, 0)[0], adjust_entries(params, [], output)).token

    assert pick([0]) == 0
    assert pick([0], repetition_penalty=1.2) == 1
    assert pick([0], presence_penalty=0.2) == 1
    assert pick([0], frequency_penalty=0.06) == 0
    assert pick([0, 0], frequency_penalty=0.06) == 1
    assert pick([], logit_bias={2: 4.0}) == 2


def test_mask_forbids_whatever_the_logits_say() -> None:
    mask = np.array([0b100], np.uint32)
    assert choose([math.inf, 5.0, -math.inf], temperature=0, mask=mask) == 2
    assert choose([9.0, 5.0, 1.0], mask=mask) == 2
    assert choose([9.0, 5.0, 1.0], mask=np.zeros(1, np.uint32)) == -1
    assert allowed_tokens(np.array([1, 2**31], np.uint32), 64).nonzero()[0].tolist() == [0, 63]


def test_cuts_keep_what_they_say() -> None:
    logits = list(np.log(np.array([0.5, 0.25, 0.15, 0.1])))
    cuts: list[dict[str, Any]] = [
        {"top_k": 2},
        {"top_p": 0.6},
        {"top_p": 0.8},
        {"min_p": 0.4},
        {"top_p": 0.0},
    ]
    kept = [{choose(logits, draw=draw, **cut) for draw in range(200)} for cut in cuts]
    assert kept == [{0, 1}, {0, 1}, {0, 1, 2}, {0, 1}, {0}]


def test_an_infinite_highest_logit_takes_everything() -> None:
    assert {choose([math.inf, 3.0, math.inf], draw=draw) for draw in range(50)} == {0, 2}
    row = sampling_row(SamplingParams(logprobs=3), 0)[0]
    answer = sample_reference(np.array([math.inf, 3.0, math.inf], np.float32), row)
    assert answer.top_tokens.tolist() == [0, 2, 1]
    assert answer.top_logprobs == pytest.approx([-math.log(2), -math.log(2), -math.inf])


def test_scoring_returns_the_given_token() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    answer = sample_reference(logits, sampling_row(SamplingParams(temperature=0), 0, score=2)[0])
    assert answer.token == 2
    assert answer.logprob == pytest.approx(math.log(0.2), abs=1e-6)
    assert math.isnan(sample_reference(logits, sampling_row(SamplingParams(), 0)[0]).logprob)


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=50), st.integers(0, 20), st.integers(0, 2**32)
)
def test_logprobs_are_a_distribution_sorted(logits: list[float], asked: int, seed: int) -> None:
    row = sampling_row(SamplingParams(logprobs=asked), seed)[0]
    answer = sample_reference(np.array(logits, np.float32), row, width=20)
    count = min(asked, len(logits))
    assert (answer.top_tokens[count:] == -1).all()
    assert (np.diff(answer.top_logprobs[:count]) <= 0).all()
    assert np.exp(answer.top_logprobs[:count].astype(float)).sum() <= 1 + 1e-5
    if count:
        assert answer.logprob <= answer.top_logprobs[0]
