"""The request model: a monotone curve, a fit that finds what samples were made from, and honest errors."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import NotMeasured, UsageError
from trimtab.machine.requests import fit as request_fit
from trimtab.machine.requests.baseline import published, published_api
from trimtab.machine.requests.fit import Sample, fit
from trimtab.machine.requests.model import BatchFit, PromptCost, RequestModel, positions

BETA, GAMMA = 3e-3, 1.2e-6


def alpha(prompt: int) -> float:
    """A made-up engine: a floor, a cost a token, attention."""
    return 2e-3 + 4e-4 * prompt + 8e-8 * prompt**2


def total(prompt: int, output: int) -> float:
    """T summed step by step: the other formulation of `BatchFit.total_s`."""
    return alpha(prompt) + sum(BETA + GAMMA * (prompt + step) for step in range(1, output))


def samples(
    prompts: tuple[int, ...], outputs: tuple[int, ...], noise: float = 0.0, trials: int = 1
) -> list[Sample]:
    draw = random.Random(5)
    made = []
    for prompt in prompts:
        for output in outputs:
            for _ in range(trials):
                slow = 1 + noise * draw.expovariate(1.0)
                first, rest = alpha(prompt) * slow, (total(prompt, output) - alpha(prompt)) * slow
                made.append(Sample(prompt, output, 1, first, first + rest))
    return made


GRID = (1, 8, 30, 100, 300, 700, 1200, 1920)
OUTPUTS = (1, 16, 64, 160)


@given(
    st.dictionaries(st.integers(1, 4000), st.floats(1e-4, 10), min_size=1, max_size=12),
    st.sampled_from(request_fit.QUANTA),
)
def test_alpha_never_falls_and_never_leaves_its_points(points: dict[int, float], quantum: int) -> None:
    curve = PromptCost.of(points, {}, quantum)
    places = sorted({*range(1, 200, 7), *points, *(p + 1 for p in points), 5000, 9000})
    values = [curve.at(place) for place in places]
    assert all(right >= left * (1 - 1e-9) for left, right in pairwise(values))
    inside = [v for p, v in zip(places, values, strict=True) if p <= max(points)]
    assert min(inside) >= min(points.values()) * (1 - 1e-9)
    assert max(inside) <= max(points.values()) * (1 + 1e-9)


def test_alpha_goes_through_rising_points_and_keeps_its_floor() -> None:
    curve = PromptCost.of({4: 0.01, 64: 0.05, 1000: 0.6}, {})
    assert [curve.at(p) for p in (4, 64, 1000)] == pytest.approx([0.01, 0.05, 0.6])
    assert curve.at(1) == pytest.approx(0.01)  # the published rule would say 0.0025
    assert curve.at(2000) == pytest.approx(1.2)  # too few points for more than proportion


def test_beyond_the_longest_prompt_attention_goes_on_growing() -> None:
    curve = PromptCost.of({p: alpha(p) for p in (256, 512, 1024, 1536, 2048)}, {})
    assert curve.at(4096) == pytest.approx(alpha(4096), rel=1e-6)


def test_a_row_block_is_found_and_used() -> None:
    def steps(prompt: int) -> float:
        return 1e-3 * -(-prompt // 16) + 1e-4

    prompts = (3, 16, 18, 40, 48, 50, 66, 90, 97, 120)
    found = fit([Sample(p, 1, 1, steps(p), steps(p)) for p in prompts]).fits[1].alpha
    assert found.quantum in (8, 16)
    assert found.at(33) == pytest.approx(steps(33), rel=0.02)


@given(st.integers(1, 3000), st.integers(1, 300))
def test_positions_are_counted(prompt: int, output: int) -> None:
    assert positions(prompt, output) == sum(prompt + step for step in range(1, output))


@pytest.mark.parametrize("statistic", request_fit.STATISTICS)
def test_without_noise_every_statistic_finds_the_engine(statistic: str) -> None:
    found = fit(samples(GRID, OUTPUTS), statistic=statistic).fits[1]
    assert found.beta_s == pytest.approx(BETA, rel=1e-6)
    assert found.gamma_s == pytest.approx(GAMMA, rel=1e-6)
    assert found.errors is not None
    assert found.errors.worst < 0.05  # what a curve through seven of eight points can miss
    for prompt, output in ((1, 256), (450, 100), (1919, 3)):
        assert found.total_s(prompt, output) == pytest.approx(total(prompt, output), rel=0.02)


def test_the_minimum_takes_contention_off_and_the_mean_keeps_it() -> None:
    noisy = samples(GRID, OUTPUTS, noise=0.5, trials=10)
    least, mean = fit(noisy).fits[1], fit(noisy, statistic="mean").fits[1]
    assert least.beta_s == pytest.approx(BETA, rel=0.1)
    assert mean.beta_s > 1.3 * BETA
    assert fit(noisy).fits[1].trials == len(noisy)


def test_left_out_errors_are_those_of_a_fit_without_the_prompt() -> None:
    found = fit(samples(GRID, OUTPUTS)).fits[1]
    assert found.errors is not None
    worst = 0.0
    for prompt in GRID[1:-1]:
        others = fit(samples(tuple(p for p in GRID if p != prompt), OUTPUTS)).fits[1]
        for output in OUTPUTS:
            worst = max(worst, abs(total(prompt, output) / others.total_s(prompt, output) - 1))
    assert found.errors.worst == pytest.approx(worst, rel=1e-6)
    assert found.band[0] < 1 < found.band[1]


def test_the_published_model_misses_long_contexts_and_short_prompts() -> None:
    made = samples((1, 64, 512, 1024, 1920), OUTPUTS)
    theirs, ours = published(made), fit(made).fits[1]
    assert abs(theirs.total_s(1900, 256) / total(1900, 256) - 1) > 5 * abs(
        ours.total_s(1900, 256) / total(1900, 256) - 1
    )
    assert theirs.alpha_s(17) == pytest.approx(alpha(64) * 17 / 64)
    assert theirs.alpha_s(2500) == pytest.approx(alpha(1920) * 2500 / 1920)


def test_the_published_interface_fit_is_a_line_a_prompt() -> None:
    made = [Sample(p, o, 1, 0.1, 0.05 * p + 0.004 * o) for p in (1, 10) for o in (1, 8, 32)]
    found = published_api(made)
    assert found.beta_s == pytest.approx(0.004)
    assert found.alphas[10] == pytest.approx(0.504)
    with pytest.raises(UsageError, match="two outputs"):
        published_api(made[:1])


def test_few_points_lean_on_a_prior() -> None:
    prior = fit(samples(GRID, OUTPUTS))
    slower = [Sample(100, 1, 1, 2 * alpha(100), 2 * alpha(100))]
    found = fit(slower, prior=prior)
    assert found.basis == "scaled prior"
    assert found.fits[1].alpha.at(700) == pytest.approx(2 * alpha(700), rel=0.01)
    assert found.fits[1].beta_s == prior.fits[1].beta_s
    assert fit([], prior=prior).basis == "prior"
    with pytest.raises(UsageError, match="no request"):
        fit([])


def test_a_null_request_is_taken_off() -> None:
    slower = [
        Sample(s.prompt, s.output, 1, s.first_s + 0.01, s.total_s + 0.01) for s in samples(GRID, OUTPUTS)
    ]
    found = fit(slower, overhead_s=0.01)
    assert found.predict(1, 1).total_s == pytest.approx(alpha(1))
    assert found.overhead_s == 0.01


def test_drift_is_seen_in_the_anchors_alone() -> None:
    runs = [Sample(8, 4, 1, 0.1, 0.2 * (1 + step / 10), step) for step in range(9)]
    assert request_fit.drift(runs, [(8, 4, 1)]) == pytest.approx(1.7 / 1.1)
    assert request_fit.drift(runs, [(9, 4, 1)]) == 1.0


def test_it_survives_the_profile() -> None:
    found = fit(samples(GRID, OUTPUTS), model="m", engine="e", settings={"threads": 2})
    again = RequestModel.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert again.predict(450, 100) == found.predict(450, 100)


def test_batches_are_kept_apart_and_steps_lie_between_them() -> None:
    flat = PromptCost.of({1: 0.01}, {})
    model = RequestModel("m", "e", {}, {b: BatchFit(b, flat, 1e-3 * b, 1e-6) for b in (1, 4)})
    assert model.step_s([100]) == pytest.approx(1e-3 + 1e-4)
    assert model.step_s([100] * 2) == pytest.approx(2e-3 + 2e-4)
    assert model.step_s([100] * 8) == pytest.approx(8e-3 + 8e-4)
    assert model.step_s([]) == 0.0
    with pytest.raises(NotMeasured, match="--batch 2"):
        model.predict(1, 1, 2)
    one = model.fits[4]
    assert one.decode_s(10, 3) == pytest.approx(2 * 4e-3 + 4e-6 * (11 + 12))


def test_objectives_become_an_inequality() -> None:
    model = fit(samples(GRID, OUTPUTS))
    step = BETA + GAMMA * 600
    assert model.holds(500, 100, ttft_s=alpha(500) * 1.1, tpot_s=step * 1.01)
    assert not model.holds(500, 100, ttft_s=alpha(500) * 1.1, tpot_s=step * 0.99)
    assert not model.holds(500, 100, ttft_s=alpha(500) * 1.1, tpot_s=1, wait_s=alpha(500) * 0.2)
    assert math.isclose(model.total_s([(5, 1), (5, 1)]), 2 * model.predict(5, 1).total_s)


@pytest.mark.parametrize("wrong", [{}, {0: 1.0}, {5: 0.0}, {5: math.inf}])
def test_costs_must_be_measured(wrong: dict[int, float]) -> None:
    with pytest.raises(UsageError):
        PromptCost.of(wrong, {})
    with pytest.raises(UsageError):
        PromptCost.of({5: 1.0}, {}).at(0)


@given(st.lists(st.floats(0.7, 1.5), min_size=10, max_size=10))
def test_prompts_seen_once_lean_on_the_curve_and_those_seen_often_stay(factors: list[float]) -> None:
    prompts = (1, 8, 30, 64, 100, 300, 700, 1000, 1500, 1920)
    firsts = {p: alpha(p) * f for p, f in zip(prompts, factors, strict=True)}
    often = request_fit.smoothed(firsts, dict.fromkeys(prompts, 1e6), 0.1)
    assert often == pytest.approx(firsts, rel=1e-3)
    assert request_fit.smoothed(firsts, dict.fromkeys(prompts, 1.0), 0.0) == pytest.approx(firsts)


def test_one_slow_trial_does_not_bend_the_curve() -> None:
    prompts = (1, 8, 30, 64, 100, 300, 700, 1000, 1500, 1920)
    firsts = {p: alpha(p) for p in prompts} | {1000: 1.4 * alpha(1000)}
    found = request_fit.smoothed(firsts, dict.fromkeys(prompts, 1.0), 0.15)
    assert found[1000] == pytest.approx(alpha(1000), rel=0.1)
    assert found[700] == pytest.approx(alpha(700), rel=0.02)
