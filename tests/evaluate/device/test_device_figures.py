"""What is drawn from events: windows, energy by event, a reader's experience, trends, paired differences."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.evaluate.device.accuracy import paired
from trimtab.evaluate.device.activity import Sample
from trimtab.evaluate.device.driver import Event, Turn
from trimtab.evaluate.device.engines import Work
from trimtab.evaluate.device.events import Held, account
from trimtab.evaluate.device.experience import READING_TOKENS_PER_S, experience, stalled_s
from trimtab.evaluate.device.sustained import trend
from trimtab.machine.power.energy import EnergyTrace
from trimtab.machine.power.model import PowerModel

WORK = Work(1e8, 1e8, 2e4, 2e8, 5e7, 7e4)
MODEL = PowerModel(
    idle_watts=5, joules_per_core_second=3, joules_per_dram_byte=1e-10, joules_per_operation=1e-12,
    low=0.5, high=2, citation="made up for this test",
)  # fmt: skip


def turn_at(start: float, prefill: float = 0.5, decode: float = 2.0, tokens: int = 20) -> Turn:
    first = start + 0.1 + prefill
    names = [("request", start, 0.1), ("prefill", start + 0.1, prefill), ("decode", first, decode)]
    events = [Event(name, at, length, core_seconds=length) for name, at, length in names]
    events.append(Event("finish", first + decode, 0.05))
    times = [first + index * decode / (tokens - 1) for index in range(tokens)]
    return Turn(events, "text", 40, tokens, times)


def held_of(*turns: Turn, gap: float = 0.0) -> Held:
    end = turns[-1].events[-1].end_s + gap
    start = turns[0].events[0].start_s
    cores = sum(event.core_seconds for turn in turns for event in turn.events)
    return Held(0, 1, start, end - start, cores, turns, [turn.prompt_tokens for turn in turns])


def test_the_closure_notices_time_that_no_event_has() -> None:
    assert held_of(turn_at(10.0), turn_at(12.65)).closure == pytest.approx(1.0)
    assert held_of(turn_at(10.0), gap=1.0).closure == pytest.approx(2.65 / 3.65)


@given(
    st.lists(st.tuples(st.floats(0.01, 2), st.floats(0.01, 5), st.integers(2, 60)), min_size=1, max_size=6)
)
def test_modelled_energy_by_event_sums_to_the_whole(shapes: list[tuple[float, float, int]]) -> None:
    """The model is linear and the events tile the time: only rounding is between the sums."""
    turns, now = [], 5.0
    for prefill, decode, tokens in shapes:
        turns.append(turn_at(now, prefill, decode, tokens))
        now = turns[-1].events[-1].end_s
    accounted = account(held_of(*turns), WORK, None, MODEL)
    assert accounted is not None
    assert accounted.whole.source == "modelled"
    assert accounted.closure == pytest.approx(1.0, abs=1e-9)
    low, high = accounted.whole.band("modelled")
    assert low < accounted.whole.joules("modelled") < high


def test_lost_time_shows_in_the_energy_too() -> None:
    accounted = account(held_of(turn_at(10.0), gap=5.0), WORK, None, MODEL)
    assert accounted is not None
    assert accounted.closure < 0.9


def test_a_meters_trace_goes_before_the_model_if_it_covers_all() -> None:
    held = held_of(turn_at(10.0))
    trace = EnergyTrace.of_power([9.0, 11.0, 14.0], [10.0, 20.0, 20.0], "measured:external")
    accounted = account(held, WORK, trace, MODEL)
    assert accounted is not None
    assert accounted.whole.source == "measured:external"
    assert accounted.closure == pytest.approx(1.0, abs=0.01)
    short = EnergyTrace.of_power([10.5, 11.0], [10.0, 20.0], "measured:external")
    fallback = account(held, WORK, short, MODEL)
    assert fallback is not None
    assert fallback.whole.source == "modelled"
    assert account(held, WORK, short, None) is None


def test_prefill_and_decode_have_their_own_work() -> None:
    bytes_of_ten, operations_of_ten = WORK.decode(10, 100)
    step_bytes, step_operations = WORK.decode(1, 100)
    assert bytes_of_ten > 10 * WORK.step_bytes
    assert step_operations * 10 < operations_of_ten
    assert WORK.prefill(512)[0] < 2 * WORK.pass_bytes < WORK.prefill(513)[0]
    assert WORK.prefill(0) == WORK.decode(0, 5) == (0.0, 0.0)
    assert step_bytes == WORK.step_bytes + 101 * WORK.position_bytes


def test_a_fast_steady_engine_is_read_along_without_waiting() -> None:
    felt = experience([turn_at(0, tokens=40), turn_at(5, tokens=40)])
    assert felt.score == pytest.approx(100.0)
    slow = experience([turn_at(0, decode=40, tokens=40)])
    assert slow.flow < 0.3
    waits = experience([turn_at(0, prefill=20)])
    assert waits.response == 0
    failed = experience([turn_at(0), replace(turn_at(5), failure="ended")])
    assert failed.success == 0.5
    assert failed.score == pytest.approx(50.0)
    assert experience([]).score == 0


@given(st.lists(st.floats(0, 3), min_size=1, max_size=50))
def test_stalls_are_what_a_reader_waits(gaps: list[float]) -> None:
    """Independent formulation: the reader finishes word n at max(finish of n-1, arrival of n) + one word."""
    times = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    word, done = 1 / READING_TOKENS_PER_S, times[0]
    for moment in times:
        done = max(done, moment) + word
    expected = done - times[0] - len(times) * word
    assert stalled_s(times) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("change", [0.0, -0.05, 0.03])
def test_the_trend_of_a_changing_speed_is_found(change: float) -> None:
    """Speed 50 (1 + change * minutes): the fitted slope over its mean is change / (1 + change * 2.5)."""
    times, now = [], 0.0
    while now < 300:
        now += 1 / (50 * (1 + change * now / 60))
        times.append(now)
    samples = [Sample(float(t), 1, 0, 0.0, t * 2, t * 100) for t in range(301)]
    found = trend(times, 0.0, 300.0, 10.0, samples)
    assert found is not None
    assert len(found.tokens_per_s) == 30
    assert found.slope_per_minute == pytest.approx(change / (1 + change * 2.5), abs=0.003)
    assert found.drifts == (change != 0)
    assert found.steal == pytest.approx([0.02] * 30)
    assert trend(times, 0.0, 25.0, 10.0) is None


def test_a_noisy_flat_speed_is_no_drift() -> None:
    draw = random.Random(5)
    times, now = [], 0.0
    while now < 600:
        now += draw.uniform(0.005, 0.1)
        times.append(now)
    found = trend(times, 0.0, 600.0, 10.0)
    assert found is not None
    assert not found.drifts


def test_paired_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    """95 % intervals over 40 draws: fewer than 32 hits has a chance below one in ten thousand."""
    hits = 0
    for seed in range(40):
        draw = random.Random(seed)
        common = [draw.gauss(0, 3) for _ in range(60)]
        mine = [value + draw.gauss(0.5, 0.5) for value in common]
        found = paired(mine, common, seed)
        hits += found.low <= 0.5 <= found.high
        # Unpaired, the spread of 3 would give a standard error of 0.55; paired it is 0.065.
        assert found.high - found.low < 0.5
    assert hits >= 32
    assert math.isclose(paired([1.0, 2.0], [1.0, 2.0]).mean, 0)
    with pytest.raises(ValueError, match="pairs"):
        paired([1.0], [])
