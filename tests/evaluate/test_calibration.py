"""The adaptive grid: within its runs and its budget, on distinct prompts, and right about a known engine."""

from __future__ import annotations

import pytest
from made_target import BETA, GAMMA, MadeTarget

from trimtab.errors import UsageError
from trimtab.evaluate.calibration import MOST_RUNS, OUTPUTS, Calibration


def test_it_finds_the_engine_between_its_points() -> None:
    target = MadeTarget()
    calibration = Calibration(target, clock=target.clock)
    found = calibration.finish().fits[1]
    assert calibration.runs == MOST_RUNS
    assert found.beta_s == pytest.approx(BETA, rel=1e-3)
    assert found.gamma_s == pytest.approx(GAMMA, rel=1e-2)
    for prompt, output in ((3, 9), (17, 256), (450, 33), (1800, 200)):
        assert found.total_s(prompt, output) == pytest.approx(target.total(prompt, output), rel=0.02)


def test_noise_that_only_adds_is_taken_off() -> None:
    target = MadeTarget(noise=0.1)
    found = Calibration(target, clock=target.clock).finish().fits[1]
    errors = [
        abs(found.total_s(p, o) / target.total(p, o) - 1) for p in (5, 50, 500, 1500) for o in (4, 64, 256)
    ]
    assert sum(errors) / len(errors) < 0.06


def test_it_starts_with_four_by_four_and_repeats_anchors() -> None:
    target = MadeTarget()
    calibration = Calibration(target, clock=target.clock, most_runs=18)
    calibration.finish()
    points = {(s.prompt, s.output) for s in calibration.samples}
    assert len(points) == 16
    assert {o for _, o in points} == set(OUTPUTS)
    assert calibration.report()["drift"] == pytest.approx(1.0)


def test_a_budget_is_kept() -> None:
    target = MadeTarget()
    calibration = Calibration(target, clock=target.clock, budget_s=5.0)
    calibration.finish()
    assert 3.0 < calibration.spent_s < 6.0
    assert calibration.spent_s == pytest.approx(target.now)


def test_prompts_are_distinct_and_some_lengths_are_left_alone() -> None:
    target = MadeTarget()
    avoid = (3, 17, 40, 100)
    calibration = Calibration(target, clock=target.clock, avoid=avoid, batches=(1, 2))
    model = calibration.finish()
    long = [prompt for prompt in target.prompts if len(prompt) > 20]
    assert len(set(long)) == len(long)
    assert not {len(prompt) for prompt in target.prompts} & set(avoid)
    assert set(model.fits) == {1, 2}
    assert model.predict(200, 32, 2).total_s > model.predict(200, 32, 1).total_s


def test_wrong_counts_are_dropped_and_then_refused() -> None:
    target = MadeTarget(miscounts=True)
    with pytest.raises(UsageError, match="ignore_eos"):
        Calibration(target, clock=target.clock).finish()


def test_a_context_that_is_too_short() -> None:
    target = MadeTarget()
    target.context = 200
    with pytest.raises(UsageError, match="--context"):
        Calibration(target)


def test_an_anchor_that_is_too_dear_stops_nothing() -> None:
    target = MadeTarget()
    calibration = Calibration(target, clock=target.clock, budget_s=6.0)
    calibration.finish()
    assert calibration.runs > 7
