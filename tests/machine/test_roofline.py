"""The roofline on a machine of round figures, where every bound can be worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_profile import MACHINE, made_profile, stamp

from trimtab.errors import NotMeasured, UnknownName, UsageError
from trimtab.machine.profile import Profile
from trimtab.machine.roofline import Ceilings, bound, cache_levels, class_of, unit_of

MEMORY = 256 << 20


def test_arithmetic_sets_the_pace_of_dense_work() -> None:
    found = bound(1e9, 1e6, "int8", 1, made_profile(), working_set_bytes=MEMORY)
    assert found.seconds == pytest.approx(0.01)
    assert (found.limited_by, found.what) == ("compute", "compute")
    assert bound(1e9, 1e6, "bf16", 1, made_profile()).seconds == pytest.approx(0.02)
    assert bound(1e9, 1e6, "q4+min", 2, made_profile()).seconds == pytest.approx(0.005)


def test_bytes_come_at_the_rate_of_the_level_they_lie_in() -> None:
    profile = made_profile()
    for size, seconds, what in (
        (16 << 10, 1e6 / 200e9, "L1 bandwidth"),
        (512 << 10, 1e6 / 100e9, "L2 bandwidth"),
        (16 << 20, 1e6 / 40e9, "L3 bandwidth"),
        (MEMORY, 1e6 / 10e9, "memory bandwidth"),
        (MEMORY * 64, 1e6 / 10e9, "memory bandwidth"),
    ):
        found = bound(0, 1e6, "int8", 1, profile, working_set_bytes=size)
        assert found.seconds == pytest.approx(seconds)
        assert found.what == what
    assert bound(0, MEMORY, "int8", 1, profile).what == "memory bandwidth"
    triad = bound(0, 1e6, "int8", 1, profile, working_set_bytes=MEMORY, pattern="triad")
    assert triad.seconds == pytest.approx(1e6 / 7.5e9)


def test_meeting_costs_on_top_and_loads_in_a_row_wait() -> None:
    profile = made_profile()
    found = bound(100, 100, "int8", 2, profile, regions=150)
    assert found.limited_by == "dispatch"
    assert found.seconds == pytest.approx(150e-6, rel=1e-3)
    assert found.seconds > 150e-6
    assert bound(100, 100, "int8", 1, profile, regions=150).parts["dispatch"] == 0  # one thread meets nobody
    chased = bound(0, 64e3, "int8", 1, profile, working_set_bytes=MEMORY, loads=1000)
    assert chased.what == "memory latency"
    assert chased.seconds == pytest.approx(100e-6)


def test_the_shape_of_a_product_sets_its_peak() -> None:
    ceilings = Ceilings.of(made_profile(), 2)
    assert ceilings.peak("int8") == 200e9
    assert ceilings.peak("int8", rows=1) == 50e9
    assert ceilings.peak("int8", rows=4) == 200e9  # not measured: the registers'
    assert ceilings.peak("q8/16", rows=512) == 160e9


@pytest.mark.parametrize("name", ["peak", "bandwidth"])
def test_what_is_missing_stale_or_noisy_is_refused(name: str) -> None:
    good = made_profile()
    data = dict(good.sections[name].data)
    without = Profile(good.machine, {key: each for key, each in good.sections.items() if key != name})
    for profile, why in (
        (without, "no section"),
        (made_profile(**{name: stamp(data, days_ago=40)}), "40"),
        (made_profile(**{name: stamp(data, others=0.6)}), "busy machine"),
        (made_profile(**{name: stamp(data, steal=0.6)}), "busy machine"),
    ):
        with pytest.raises(NotMeasured, match=why):
            bound(1, 1, "int8", 1, profile)
    noisy = made_profile(**{name: stamp(data, others=0.6)})
    assert Ceilings.of(noisy, 1, allow_noisy=True).bound(1, 1).seconds > 0


def test_what_was_never_measured_is_refused_by_name() -> None:
    with pytest.raises(NotMeasured, match="3 threads"):
        bound(1, 1, "int8", 3, made_profile())
    few = made_profile()
    rows = [row for row in few.sections["peak"].data["rows"] if row["unit"] != "bf16"]
    with pytest.raises(NotMeasured, match="bf16"):
        bound(1, 1, "bf16", 1, made_profile(peak=stamp({"rows": rows})))
    without = Profile(few.machine, {name: few.sections[name] for name in ("peak", "bandwidth")})
    with pytest.raises(NotMeasured, match="latency"):
        bound(1, 1, "int8", 1, without, loads=1)
    assert bound(1, 1, "int8", 1, without).seconds > 0
    with pytest.raises(UnknownName, match="float8"):
        unit_of("float8")
    with pytest.raises(UnknownName, match="gather"):
        bound(1, 1, "int8", 1, few, pattern="gather")
    with pytest.raises(UsageError):
        bound(-1, 1, "int8", 1, few)
    with pytest.raises(UsageError):
        class_of(0)


def test_a_mapping_of_region_costs_may_be_flat() -> None:
    for told, seconds in ((2e-6, 2e-6), ({"2": 3e-6}, 3e-6), ({"fork-join": 4e-6}, 4e-6), (None, 0.0)):
        rows = made_profile().sections["bandwidth"].data["rows"]
        profile = made_profile(bandwidth=stamp({"rows": rows, "region_s": told}))
        assert Ceilings.of(profile, 2).region_s == seconds


def test_own_caches_count_for_each_thread() -> None:
    assert cache_levels(MACHINE, 1) == [("L1", 32 * 2**10), ("L2", 2**20), ("L3", 32 * 2**20)]
    assert cache_levels(MACHINE, 2) == [("L1", 64 * 2**10), ("L2", 2 * 2**20), ("L3", 32 * 2**20)]
    assert cache_levels({}, 2) == []


amounts = st.floats(0, 1e15, allow_nan=False)


@given(amounts, amounts, amounts, st.floats(1, 1e12), st.sampled_from([1, 2]))
def test_more_work_is_never_faster(ops: float, bytes: float, more: float, size: float, threads: int) -> None:
    ceilings = Ceilings.of(made_profile(), threads)
    base = ceilings.bound(ops, bytes, working_set_bytes=size)
    assert ceilings.bound(ops + more, bytes, working_set_bytes=size).seconds >= base.seconds
    assert ceilings.bound(ops, bytes + more, working_set_bytes=size).seconds >= base.seconds
    assert base.seconds == max(base.parts.values())  # without regions nothing is added up
    # This machine's rates fall as working sets grow, so the bounds rise.
    assert ceilings.bound(ops, bytes, working_set_bytes=2 * size).seconds >= base.seconds * (1 - 1e-12)
