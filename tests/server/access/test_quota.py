"""Buckets fill with time, never beyond a minute's worth, and over time nobody gets more than the limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_keys import Clock

from trimtab.server.access.keys import Limits
from trimtab.server.access.quota import Bucket, Quota, Quotas, span


def test_a_bucket_fills_again() -> None:
    clock = Clock()
    bucket = Bucket(60, clock)
    for _ in range(60):
        assert bucket.wait_s(1) == 0
        bucket.take(1)
    assert bucket.wait_s(1) == pytest.approx(1.0)
    assert bucket.full_in_s == pytest.approx(60)
    clock.later(1)
    assert bucket.wait_s(1) == 0
    clock.later(10_000)
    assert bucket.level == 60


def test_more_than_a_minutes_worth_passes_a_full_bucket_and_is_paid_back() -> None:
    clock = Clock()
    bucket = Bucket(100, clock)
    assert bucket.wait_s(250) == 0
    bucket.take(250)
    assert bucket.level == -150
    clock.later(60)
    assert bucket.wait_s(1) == pytest.approx(51 * 60 / 100)


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 3000), st.floats(0, 1)), max_size=60),
)
def test_over_time_nobody_gets_more_than_the_limit(
    per_minute: int, wanted: list[tuple[float, int, float]]
) -> None:
    """Reserved, then settled to what was used: at most a minute's worth ahead, and one taking beyond."""
    clock = Clock()
    bucket = Bucket(per_minute, clock)
    used, largest = 0.0, 0
    for pause, asked, share in wanted:
        clock.later(pause)
        if bucket.wait_s(asked) == 0:
            bucket.take(asked)
            took = int(asked * share)
            bucket.take(took - asked)
            used += took
            largest = max(largest, asked)
        assert bucket.level <= per_minute
    elapsed = clock.now - 1000
    assert used <= per_minute * (1 + elapsed / 60) + largest + 1e-3


@given(st.integers(1, 10_000), st.integers(0, 20_000), st.integers(1, 20_000))
def test_whoever_waits_as_told_is_let_in(per_minute: int, taken: int, asked: int) -> None:
    clock = Clock()
    bucket = Bucket(per_minute, clock)
    bucket.take(taken)
    clock.later(bucket.wait_s(asked))
    assert bucket.wait_s(asked) == 0


def test_headers_as_openai_has_them() -> None:
    clock = Clock()
    quota = Quota(Limits(requests_per_minute=60, tokens_per_minute=6000), clock)
    assert quota.requests is not None
    quota.requests.take(1)
    assert quota.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "6000",
        "x-ratelimit-reset-tokens": "0ms",
    }
    assert Quota(Limits(), clock).headers() == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.02, "20ms"), (1.0, "1s"), (7.5, "7.5s"), (90, "1m30s"), (0, "0ms"), (360, "6m0s")],
)
def test_times_as_openai_writes_them(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_changed_limit_holds_at_once_and_an_unchanged_one_forgets_nothing() -> None:
    quotas = Quotas(Clock())
    first = quotas.of("alice", Limits(requests_per_minute=10, tokens_per_minute=100))
    assert first.requests is not None
    first.requests.take(10)
    again = quotas.of("alice", Limits(requests_per_minute=10, tokens_per_minute=50))
    assert again is first
    assert again.requests is not None
    assert again.requests.wait_s(1) > 0
    assert again.tokens is not None
    assert again.tokens.per_minute == 50
    freed = quotas.of("alice", Limits())
    assert (freed.requests, freed.tokens) == (None, None)
