"""The small parts of a pipeline: batches, accounts, buffers, costs."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.server.pipeline.batcher import Batcher
from trimtab.server.pipeline.buffers import Buffers
from trimtab.server.pipeline.cost import Costs
from trimtab.server.pipeline.trace import divided


@dataclass(eq=False)
class Unit:
    key: int
    queued_at: float = 0.0


@given(
    moves=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.02), st.booleans()), max_size=60),
    most=st.integers(1, 5), delay_s=st.sampled_from([0.0, 0.01, 0.05]),
)  # fmt: skip
def test_batches_lose_nothing_and_mix_nothing(
    moves: list[tuple[int, float, bool]], most: int, delay_s: float
) -> None:
    waiting: Batcher[Unit] = Batcher(most, delay_s)
    now, put, taken = 0.0, [], []
    for key, step, taking in moves:
        now += step
        if taking:
            expected = waiting.ripe_at() <= now
            batch = waiting.take(now)
            assert bool(batch) == expected
            assert len(batch) <= most
            assert len({unit.key for unit in batch}) <= 1
            # It went because it was full, or because its oldest had waited long enough.
            assert not batch or len(batch) == most or now - batch[0].queued_at >= delay_s - 1e-9
            taken += batch
        else:
            unit = Unit(key)
            put.append(unit)
            waiting.put(unit, key, now)
    assert len(waiting) == len(put) - len(taken)
    while batch := waiting.take(math.inf):
        taken += batch
    assert len(taken) == len(put)
    assert {id(unit) for unit in taken} == {id(unit) for unit in put}
    for key in range(4):  # first come, first served
        assert [u for u in taken if u.key == key] == [u for u in put if u.key == key]


SPANS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.integers(0, 40), st.integers(1, 4)), max_size=12
)


@given(SPANS)
def test_a_budget_divides_each_moment_among_what_went_on(spans: list[tuple[str, int, int, int]]) -> None:
    found = divided([(name, float(begin), float(begin + length), w) for name, begin, length, w in spans])
    expected = dict.fromkeys(found, 0.0)
    for moment in range(80):  # whole numbers are borders: inside a unit interval nothing changes
        active = [(name, w) for name, begin, length, w in spans if begin <= moment < begin + length]
        for name, weight in active:
            expected[name] += weight / sum(w for _, w in active)
    assert found == pytest.approx(expected)


@given(shapes=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=3), max_size=12))
def test_buffers_are_aligned_and_never_shared(shapes: list[list[int]]) -> None:
    buffers = Buffers(most_bytes=1 << 20)
    held: list[np.ndarray] = []
    for number, shape in enumerate(shapes):
        array = buffers.take(tuple(shape))
        assert array.shape == tuple(shape)
        assert array.ctypes.data % 64 == 0
        assert not any(np.shares_memory(array, other) for other in held)
        held.append(array)
        if number % 2:
            buffers.give(held.pop(0))
    assert buffers.kept_bytes <= 1 << 20


def test_a_buffer_that_was_given_back_is_used_again() -> None:
    buffers = Buffers()
    first = buffers.take((1000,))
    address = first.ctypes.data
    buffers.give(first)
    assert buffers.kept_bytes > 0
    assert buffers.take((900,)).ctypes.data == address
    buffers.give(np.zeros(8))  # not one of ours
    buffers.give(None)
    assert buffers.kept_bytes == 0


def test_costs_follow_the_size_once_sizes_have_been_seen() -> None:
    costs = Costs()
    for megapixels in itertools.islice(itertools.cycle([0.5, 2.0, 12.0]), 60):
        costs.enter(0.1)
        costs.leave(0.1, megapixels, 0.05 + 0.02 * megapixels)
    assert costs.backlog_s == pytest.approx(0.0, abs=1e-9)
    assert costs.expect(12.0) == pytest.approx(0.29, rel=0.02)
    assert costs.expect(0.5) == pytest.approx(0.06, rel=0.02)
