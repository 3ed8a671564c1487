"""The pool visits every unit of work once, with any number of threads, and sleeps when there is none."""

from __future__ import annotations

import os
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import _native


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 3000), st.integers(1, 400), st.integers(1, 20))
def test_every_unit_is_visited_once(threads: int, units: int, grain: int, repeats: int) -> None:
    assert _native.Pool(threads).count_up(units, grain, repeats)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_many_short_pieces(threads: int) -> None:
    """Far more barriers than a step has, more threads than processors among the cases."""
    pool = _native.Pool(threads)
    assert pool.threads == threads
    for _ in range(20):
        assert pool.count_up(threads, 1, 50)


def test_pools_do_not_disturb_each_other() -> None:
    results: list[bool] = []

    def work() -> None:
        pool = _native.Pool(2)
        results.extend(pool.count_up(501, 7, 50) for _ in range(10))

    callers = [threading.Thread(target=work) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [True] * 30


def test_a_pool_may_be_run_from_changing_threads() -> None:
    """One caller at a time, but not always the same one: an engine may be started again in a new thread."""
    pool = _native.Pool(2)
    results: list[bool] = []
    for _ in range(20):
        caller = threading.Thread(target=lambda: results.append(pool.count_up(100, 3, 5)))
        caller.start()
        caller.join()
    assert results == [True] * 20


def test_start_and_stop_at_once() -> None:
    for threads in (1, 2, 5):
        for _ in range(30):
            _native.Pool(threads)


def test_idle_threads_sleep() -> None:
    pool = _native.Pool(4)
    assert pool.count_up(100, 1, 10)
    time.sleep(0.05)  # the spins after the last piece
    before = time.process_time()
    time.sleep(0.5)
    # A single thread that kept spinning would use 0.5 s of processor time.
    assert time.process_time() - before < 0.25
    assert pool.count_up(100, 1, 10)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="pinning needs Linux")
def test_pinned_threads_work() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    pinned = [cpus[i % len(cpus)] for i in range(3)]
    results: list[bool] = []
    # In a thread of its own, so that the test's own processors stay as they were.
    caller = threading.Thread(target=lambda: results.append(_native.Pool(3, pinned).count_up(1000, 3, 20)))
    caller.start()
    caller.join()
    assert results == [True]


@pytest.mark.parametrize(("threads", "cpus"), [(0, []), (-1, []), (1025, []), (2, [0])])
def test_wrong_sizes_are_refused(threads: int, cpus: list[int]) -> None:
    with pytest.raises(ValueError, match="thread"):
        _native.Pool(threads, cpus)
