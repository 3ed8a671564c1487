"""The execution layer: executors cut alike, loops give what numpy gives, errors come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import _native

FAKE = [[0], [0]]  # two targets on one processor: logic only, nothing of speed
PLACES: dict[str, Callable[[], Any]] = {
    "serial": lambda: _native.StreamPlace("serial", 1, False),
    "fork-join": lambda: _native.StreamPlace("fork-join", 3, False),
    "block": lambda: _native.StreamPlace("block", 2, False, FAKE),
    "three targets": lambda: _native.StreamPlace("block", 5, False, [[0], [0, 0], [0, 0]]),
}
NUMPY = {"f64": np.float64, "f32": np.float32}


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> Any:
    return PLACES[request.param]()


def pieces(n: int, parts: int) -> list[tuple[int, int]]:
    return [(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


@settings(max_examples=15)
@given(n=st.integers(0, 10_000))
def test_pieces_cover_the_range_once_and_in_order(place: Any, n: int) -> None:
    seen = sorted(place.pieces(n))
    assert [at for begin, end, _ in seen for at in range(begin, end)] == list(range(n))
    assert len({part for _, _, part in seen}) == len(seen)


@settings(max_examples=15)
@given(n=st.integers(0, 5_000), grain=st.integers(1, 700))
def test_guided_grains_cover_the_range_once(place: Any, n: int, grain: int) -> None:
    seen = sorted(place.pieces(n, grain))
    assert [at for begin, end, _ in seen for at in range(begin, end)] == list(range(n))
    assert all(end - begin <= grain and begin % grain == 0 for begin, end, _ in seen)


def test_one_target_cuts_as_the_arithmetic_says() -> None:
    found = sorted((part, begin, end) for begin, end, part in PLACES["fork-join"]().pieces(100))
    assert found == [(i, a, b) for i, (a, b) in enumerate(pieces(100, 3))]


def test_targets_get_contiguous_blocks() -> None:
    """Part i of T is [i*n/T, (i+1)*n/T) for the targets, and within it for their threads."""
    found = sorted((part, begin, end) for begin, end, part in PLACES["three targets"]().pieces(90))
    assert found == [(0, 0, 30), (1, 30, 45), (2, 45, 60), (3, 60, 75), (4, 75, 90)]


def test_targets_without_a_thread_take_no_part() -> None:
    place = _native.StreamPlace("block", 2, False, [[0], [0], [0]])
    assert (place.targets, place.threads) == (2, 2)


def test_blocks_run_at_the_same_time() -> None:
    """Each part waits for all others: were one target served after the other, this would never end."""
    place = PLACES["three targets"]()
    meeting = threading.Barrier(5, timeout=30)
    place.call_each(lambda part: meeting.wait() * 0)


@pytest.mark.parametrize("bad", range(5))
def test_the_first_exception_comes_back_when_all_have_ended(bad: int) -> None:
    place = PLACES["three targets"]()
    ended = []

    def call(part: int) -> None:
        if part == bad:
            raise LookupError(f"part {part}")
        ended.append(part)

    with pytest.raises(LookupError, match=f"part {bad}"):
        place.call_each(call)
    assert sorted(ended) == [part for part in range(5) if part != bad]
    place.call_each(ended.append)  # and the threads are still there
    assert len(ended) == 9


def test_single_calls_go_to_the_targets_in_turn() -> None:
    names = _native.StreamPlace("block", 3, False, [[0], [0], [0]]).single_calls(9)
    assert len(set(names)) == 3
    assert names == names[:3] * 3


@pytest.mark.parametrize("fails", [None, 0, 17, 99])
def test_what_was_built_is_destroyed_once(place: Any, fails: int | None) -> None:
    """Elements that count themselves: built by their part's thread, and none is left or destroyed twice."""
    built, destroyed, raised = place.build_and_destroy(100, -1 if fails is None else fails)
    assert built == destroyed
    assert raised == (fails is not None)
    if fails is None:
        assert built == 100


@pytest.mark.parametrize("kernels", _native.kernel_sets())
@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16"])
@settings(max_examples=15)
@given(data=st.data())
def test_loops_give_what_numpy_gives(kernels: str, dtype: str, data: st.DataObject) -> None:
    place = PLACES[data.draw(st.sampled_from(sorted(PLACES)))]()
    n = data.draw(st.integers(1, 700))
    start = data.draw(st.integers(0, 9))  # so that the first elements lie at odd addresses
    chance = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    whole = chance.normal(size=(3, n + 20)).astype(np.float32)
    if dtype == "bf16":
        bits = (whole.view(np.uint32) >> 16).astype(np.uint16)
        arrays = [np.ascontiguousarray(each) for each in bits]
    else:
        arrays = [np.ascontiguousarray(each, NUMPY[dtype]) for each in whole]
    views = [each[start : start + n].view(np.uint8) for each in arrays]
    before = [each.copy() for each in arrays]
    x, y, z = (widened(each[start : start + n], dtype) for each in before)
    chosen = _native.choose_kernels(kernels)
    three = x.dtype.type(3)
    results = {
        "copy": (2, x), "scale": (1, z * three), "add": (2, x + y), "triad": (0, y + z * three),
        "fill": (2, np.full(n, 0.5, x.dtype)),
    }  # fmt: skip
    for streaming in (False, True):
        for pattern, (out, wanted) in results.items():
            for each, old in zip(arrays, before, strict=True):
                each[:] = old
            _native.stream_pass(place, chosen, pattern, dtype, *views, streaming)
            for i, (each, old) in enumerate(zip(arrays, before, strict=True)):
                if i == out:
                    old = old.copy()
                    old[start : start + n] = narrowed(wanted, dtype)
                np.testing.assert_array_equal(each, old, f"{pattern} of {dtype}, array {i}")
    for each, old in zip(arrays, before, strict=True):
        each[:] = old
    total = _native.stream_pass(place, chosen, "sum", dtype, *views)
    # Each number goes through at most 700 additions whose sums stay below the sum of magnitudes.
    bound = 700 * float(np.finfo(x.dtype).eps) * float(np.abs(x.astype(np.float64)).sum())
    assert abs(total - float(x.astype(np.float64).sum())) <= bound


def widened(x: Any, dtype: str) -> Any:
    return (x.astype(np.uint32) << 16).view(np.float32) if dtype == "bf16" else x


def narrowed(x: Any, dtype: str) -> Any:
    if dtype != "bf16":
        return x
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def test_pages_lie_where_they_are_used() -> None:
    """Serial first touch misplaces every page of the other target; the matching allocator none (two made-up
    targets; the owners are those that the executors' own partition gives)."""
    matching = _native.StreamPlace("block", 2, False, FAKE)
    touched, used = matching.ownership(1 << 20)
    assert touched == used
    assert set(used) == {0, 1}
    touched, used = _native.StreamPlace("parallel", 2, False, FAKE).ownership(1 << 20)
    theirs = [first for first, owner in zip(touched, used, strict=True) if owner == 1]
    assert len(theirs) == len(used) // 2
    assert all(first != 1 for first in theirs)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(("magic", 1), "no executor"), (("serial", 2), "one thread"), (("fork-join", 0), "between 1 and 1024"),
     (("block", 2, False, [[]]), "without processors")],
)  # fmt: skip
def test_impossible_places_are_refused(arguments: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        _native.StreamPlace(*arguments)
