"""The ring of figures: rates out of counters, exact percentiles, and an end when it is told to."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.stats import Ended
from trimtab.server.console.live import COLUMNS, Live, _latencies


class CountingEngine:
    """An engine that only counts: each `go` lets seconds pass and tokens come."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ended: list[Ended] = []
        self.counters = dict.fromkeys(
            ("steps", "rows", "prompt_tokens", "cached_tokens", "output_tokens", "drafted_tokens",
             "accepted_tokens"), 0,
        )  # fmt: skip

    def go(self, seconds: float, **counts: int) -> None:
        self.now += seconds
        for name, count in counts.items():
            self.counters[name] += count

    def stats(self) -> dict[str, Any]:
        requests = dict.fromkeys(("stop", "length", "cancelled", "failed", "refused"), 0)
        state = {"running": 3, "waiting": 2, "pages_held": 40, "pages_idle": 5, "requests": requests}
        return {**self.counters, **state}

    def recent(self) -> tuple[Ended, ...]:
        return tuple(self.ended)


def rows(live: Live, after: int = 0) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, json.loads(text), strict=True)) for text in live.since(after)[1]]


def test_rates_are_over_the_time_that_really_passed() -> None:
    engine: Any = CountingEngine()
    live = Live(clock=lambda: 5.0, resident=lambda: 77)
    live.sample(engine)
    engine.go(2.0, output_tokens=100, prompt_tokens=30, steps=50, rows=80)
    live.sample(engine)
    (row,) = rows(live)
    assert (row["decode"], row["prefill"], row["steps"], row["rows"]) == (50.0, 15.0, 25.0, 40.0)
    assert (row["t"], row["resident"], row["running"], row["waiting"]) == (5000, 77, 3, 2)
    assert (row["pages_held"], row["pages_idle"]) == (40, 5)
    assert row["ttft_p50"] is None


def test_the_ring_forgets_and_gives_what_is_new() -> None:
    engine: Any = CountingEngine()
    live = Live(keep=5)
    for _ in range(9):
        engine.go(1.0, output_tokens=1)
        live.sample(engine)
    number, all_rows = live.since(0)
    assert (number, len(all_rows)) == (8, 5)
    assert len(live.since(6)[1]) == 2
    assert live.since(8) == (8, [])


def test_an_old_latency_does_not_count() -> None:
    ended = [Ended(10.0, 9.0, 9.0), Ended(95.0, 0.2, None), Ended(99.0, 0.1, 0.02)]
    assert _latencies(ended, 100.0) == [200.0, 200.0, 200.0, 20.0, 20.0, 20.0]
    assert _latencies([], 100.0) == [None] * 6


@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=60))
def test_percentiles_are_values_that_occurred_and_bound_their_share(values: list[float]) -> None:
    found = _latencies([Ended(0.0, value, None) for value in values], 0.0)[:3]
    in_ms = [round(value * 1000, 3) for value in values]
    for quantile, value in zip((0.5, 0.9, 0.99), found, strict=True):
        assert value in in_ms
        # At least that share of the values is no greater.
        assert sum(one <= value for one in in_ms) >= quantile * len(values)
    assert found == sorted(found, key=float)


def test_the_thread_samples_and_ends() -> None:
    engine: Any = CountingEngine()
    live = Live(resident=lambda: 1)
    real = engine.stats
    engine.stats = lambda: (engine.go(1.0), real())[1]  # a clock that moves whenever it is read
    live.start(engine)
    deadline = time.monotonic() + 10
    while not live.since(0)[1] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert live.since(0)[1]
    live.stop()
    assert live.over
    assert live._thread is not None
    live._thread.join(5)
    assert not live._thread.is_alive()


def test_a_sample_costs_next_to_nothing() -> None:
    engine: Any = CountingEngine()
    engine.ended = [Ended(100.0, 0.1, 0.01)] * 512
    live = Live()
    live.sample(engine)
    best = 1.0
    for _ in range(20):
        engine.go(1.0, output_tokens=1)
        start = time.perf_counter()
        live.sample(engine)
        best = min(best, time.perf_counter() - start)
    # Once a second: a thousandth of one processor would already be 1 ms.
    assert best < 0.001


@pytest.mark.parametrize("name", ["t", "decode", "prefill", "running", "waiting", "resident", "tpot_p99"])
def test_the_console_finds_its_columns(name: str) -> None:
    assert COLUMNS.count(name) == 1
