"""Levels and knees of made-up memory curves: found where they are, and nowhere else."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.machine.micro.ladder import Point, footprints, levels
from trimtab.machine.micro.memory import caches_bytes, free_bytes, step_left
from trimtab.machine.micro.rows import Row, from_dict, quantile, spread

KIB, MIB = 2**10, 2**20


def curve(
    caches: list[tuple[int, float]], memory_ns: float, noise: float = 0.0, seed: int = 0
) -> list[Point]:
    """A machine whose caches replace at random: beyond a cache's size, its share of a ring still hits."""
    chance, points = random.Random(seed), []
    for size in footprints(256 * MIB, 4):
        left, ns = 1.0, 0.0
        for capacity, cost in caches:
            hits = min(left, capacity / size)
            ns, left = ns + hits * cost, left - hits
        ns = (ns + left * memory_ns) * (1 + noise * chance.random())
        points.append(Point(size, ns, 4 * ns, ns, 0.0, 1))
    return points


def test_three_levels_and_memory() -> None:
    found = levels(curve([(32 * KIB, 1), (MIB, 4), (32 * MIB, 14)], 140))
    for level, ns in zip(found, (1, 4, 14, 140), strict=True):
        assert level.ns == pytest.approx(ns, rel=0.2)
    # Beyond a cache that replaces at random cost rises slowly, so a knee lies somewhat behind its size.
    for level, size in zip(found[:3], (32 * KIB, MIB, 32 * MIB), strict=True):
        assert size <= level.knee_bytes < 2 * size
    assert found[3].knee_bytes == 0


@given(seed=st.integers(0, 10_000))
def test_neighbours_that_add_time_move_nothing_far(seed: int) -> None:
    caches = [(32 * KIB, 1.0), (MIB, 4.0), (32 * MIB, 14.0)]
    calm, noisy = levels(curve(caches, 140)), levels(curve(caches, 140, noise=0.15, seed=seed))
    assert len(noisy) == len(calm)
    for one, other in zip(calm[:-1], noisy[:-1], strict=True):
        # Where a knee is looked for, cost grows at least as the root of the footprint, so 15 % of noise in
        # the curve and half as much in the levels move it by 0.22 / 0.5 in logarithms, and a grid point.
        assert abs(math.log2(other.knee_bytes / one.knee_bytes)) < 0.45 / math.log(2) + 0.25


def test_a_flat_curve_has_one_level_and_a_short_one_none() -> None:
    flat = [Point(size, 1.0, 4.0, 1.0, 0.0, 1) for size in footprints(MIB, 4)]
    assert [(level.ns, level.knee_bytes) for level in levels(flat)] == [(1.0, 0)]
    assert levels(flat[:2]) == []


def test_a_step_of_the_translation_is_no_level() -> None:
    points = curve([(32 * KIB, 10.0)], 14.0)
    assert len(levels(points)) == 1


@given(st.integers(4096, 2**32), st.integers(1, 8))
def test_footprints_are_whole_pages_that_rise(most: int, per_octave: int) -> None:
    sizes = footprints(most, per_octave)
    assert sizes[0] == 4096
    assert sizes == sorted(set(sizes))
    assert all(size % 4096 == 0 for size in sizes)
    assert most / 2.1 < sizes[-1] <= most


@given(st.lists(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=9), min_size=1, max_size=5))
def test_spread_keeps_the_calmest_pass(passes: list[list[float]]) -> None:
    import statistics

    found = spread(passes)
    assert found.n == sum(len(one) for one in passes)
    assert found.calmest == min(statistics.median(one) for one in passes)
    assert found.calmest <= found.median * (1 + 1e-12) or len(passes) > 1
    assert found.iqr >= 0


def test_passes_that_are_too_good_do_not_count_when_there_are_many() -> None:
    passes = [[2.98, 2.99, 2.98]] * 21 + [[2.6, 2.7, 2.8]] * 2 + [[9.0, 9.0, 3.0]] * 2
    assert spread(passes).calmest == 2.98
    assert spread(passes[-4:]).calmest == 2.7


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_quantiles_are_those_of_numpy(values: list[float]) -> None:
    import numpy as np

    for share in (0.0, 0.25, 0.5, 0.9, 1.0):
        assert quantile(sorted(values), share) == pytest.approx(float(np.quantile(values, share)), abs=1e-6)


def test_a_row_comes_back() -> None:
    row = Row(
        "fma", "throughput", 512, 2, 0.27, 1.0, 2.4e11, "op/s", 105, 0.28, 0.01, "chains", {"chains": 8}
    )
    assert from_dict(row.as_dict()) == row
    assert row.label == "fma 512"
    assert row.per_cycle == 1.0
    with pytest.raises(KeyError):
        from_dict({"name": "fma"})


def test_memory_that_may_be_taken(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    meminfo = folder / "meminfo"
    meminfo.write_text("MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
    assert free_bytes(meminfo, []) == 4000 * 1024
    for limit, used, free in (("max", "5", 4000 * 1024), ("1000000", "400000", 600_000), ("10", "50", 0)):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(used + "\n")
        assert free_bytes(meminfo, [folder]) == free
    assert free_bytes(folder / "none", [folder / "none"]) > 0


def test_reported_caches_are_sizes_by_level() -> None:
    found = caches_bytes()
    assert list(found.values()) == sorted(found.values())
    assert set(found) <= {"L1", "L2", "L3", "L4"}


def test_the_step_that_huge_pages_leave() -> None:
    before, after = 128 * KIB, MIB
    small = {before: 1.0, after: 3.0}
    assert step_left(small, {before: 1.0, after: 1.0}) == 0
    assert step_left(small, {before: 1.0, after: 3.1}) == 1
    assert step_left(small, {before: 1.0, after: 1.5}) == pytest.approx(0.25)
    assert step_left({before: 1.0, after: 1.1}, small) is None
    assert step_left({}, small) is None
