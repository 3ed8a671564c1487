"""No is said early, with a time that is about right; what has started is never refused."""

from __future__ import annotations

import time

import pytest
from fake_runner import FakeRunner, FakeTokenizer
from hypothesis import given
from hypothesis import strategies as st
from test_fairness import waiting

from trimtab.engine.backpressure import LONGEST_RETRY_S, Backpressure, QueueRate
from trimtab.engine.engine import Engine, EngineSettings
from trimtab.engine.fairness import Caller, FairQueue
from trimtab.engine.sampling import SamplingParams
from trimtab.errors import Busy

LONG = SamplingParams(max_tokens=200, ignore_eos=True)


class Slow(FakeRunner):
    def step(self, batch):  # type: ignore[no-untyped-def]
        time.sleep(0.01)
        return super().step(batch)


def pressure(queue: FairQueue, **more: int | None) -> Backpressure:
    return Backpressure(queue, **{"max_running": 2, "max_waiting": 3, "max_waiting_each": None, **more})  # type: ignore[arg-type]


def test_the_bounds() -> None:
    guard = pressure(FairQueue(), max_waiting_each=1)
    for serial in range(3):
        guard.check(Caller("a"))
        guard.enter(waiting(Caller("a"), serial))
    with pytest.raises(Busy, match="3 requests of yours are running or waiting, and 3 is the most"):
        guard.check(Caller("a"))
    other = [waiting(Caller("b"), serial) for serial in range(2)]
    for sequence in other:
        guard.check(Caller("b"))
        guard.enter(sequence)
    with pytest.raises(Busy, match="5 requests are running or waiting, and 5 is the most"):
        guard.check(Caller("c"))
    guard.leave(other[0])
    guard.check(Caller("c"))


def test_nobody_in_particular_has_only_the_common_bound() -> None:
    guard = pressure(FairQueue(), max_waiting_each=0)
    for serial in range(5):
        guard.check(Caller())
        guard.enter(waiting(Caller(), serial))
    with pytest.raises(Busy):
        guard.check(Caller())


@given(st.floats(0.1, 50), st.floats(0.01, 2.0))
def test_the_rate_is_that_of_the_queue(rate: float, step: float) -> None:
    queue_rate = QueueRate()
    started, now = 0, 0.0
    while now < 120:
        now += step
        queue_rate.note(step, int(now * rate) - started)
        started = int(now * rate)
    # A step may start one request more or less; what is remembered is about 30 s.
    assert queue_rate.per_second == pytest.approx(rate, abs=2.5 / 30)


def test_an_idle_time_says_nothing_about_the_rate() -> None:
    queue = FairQueue()
    guard = pressure(queue)
    guard.note(0.0, 0)
    guard.note(100.0, 5)  # nobody waited
    assert guard.wait_s(Caller()) is None
    queue.add(waiting(Caller(), 0))
    guard.note(101.0, 6)
    guard.note(103.0, 10)
    assert guard.wait_s(Caller()) == pytest.approx(1 / 2)


def test_who_would_wait_too_long_is_refused_at_once_with_a_time() -> None:
    queue = FairQueue()
    guard = pressure(queue, max_waiting=1000)
    for serial in range(40):
        queue.add(waiting(Caller("heavy"), serial))
    guard.note(0.0, 0)
    guard.note(10.0, 20)  # two a second: forty take twenty seconds
    assert guard.wait_s(Caller("heavy")) == pytest.approx(20)
    guard.check(Caller("heavy", patience_s=21))
    with pytest.raises(Busy, match="would wait 20 s, and 5 s is the most") as caught:
        guard.check(Caller("heavy", patience_s=5))
    assert caught.value.retry_after_s == 15
    # Another tenant has its share: it does not wait behind the forty.
    assert guard.wait_s(Caller("light")) == 0
    guard.check(Caller("light", patience_s=1))
    with pytest.raises(Busy) as caught:
        guard.check(Caller("heavy", patience_s=0.001))
    assert 1 <= (caught.value.retry_after_s or 0) <= LONGEST_RETRY_S


def test_who_has_waited_long_enough_is_refused_and_who_has_started_is_not() -> None:
    runner = Slow(num_pages=64)
    with Engine(runner, FakeTokenizer(), EngineSettings(max_running=2)) as engine:
        first = [engine.submit([1, 2, 3], LONG, caller=Caller("a", patience_s=0.2)) for _ in range(2)]
        late = engine.submit([4, 5, 6], LONG, caller=Caller("a", patience_s=0.2))
        patient = engine.submit([7, 8, 9], SamplingParams(max_tokens=2, ignore_eos=True), caller=Caller("a"))
        with pytest.raises(Busy, match=r"has waited 0\.2 s"):
            late.result()
        assert all(one.result().finish_reason == "length" for one in first)
        assert patient.result().finish_reason == "length"
        stats = engine.stats()
        assert stats["requests"]["refused"] == 1
        assert stats["requests"]["failed"] == 0
        assert stats["pages_held"] == 0


def test_choices_of_one_request_are_refused_together_or_not_at_all() -> None:
    runner = Slow(num_pages=64)
    params = SamplingParams(max_tokens=40, ignore_eos=True, n=4)
    with Engine(runner, FakeTokenizer(), EngineSettings(max_running=2)) as engine:
        handles = engine.submit_choices([1, 2, 3], params, caller=Caller(patience_s=0.1))
        # The last two start after 0.4 s: the first had started, so they may wait.
        assert [handle.result().finish_reason for handle in handles] == ["length"] * 4
