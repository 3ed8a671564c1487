"""The instruction-cost table: sums against hand-made ones, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import UnknownName
from trimtab.machine.micro import units
from trimtab.machine.micro.costs import Costs, kind_of

TABLE = Costs(
    throughput={"fma_f32 512": 1.0, "add_f32 512": 1.0, "load 512": 1.0, "store 512": 2.0},
    latency={"fma_f32 512": 4.0, "add_f32 512": 3.0},
    hz=1e9,
)
counts = st.dictionaries(st.sampled_from(sorted(TABLE.throughput)), st.integers(0, 1000), min_size=1)


def test_kinds_run_side_by_side_and_one_kind_behind_itself() -> None:
    assert TABLE.seconds({"fma_f32 512": 100, "load 512": 90}) == pytest.approx(100e-9)
    assert TABLE.seconds({"fma_f32 512": 100, "store 512": 90}) == pytest.approx(180e-9)
    assert TABLE.seconds({"load 512": 90}, loading_s=20e-9) == pytest.approx(110e-9)


def test_what_is_chained_comes_on_top() -> None:
    issued, chained = {"load 512": 100}, {"fma_f32 512": 10, "add_f32 512": 2}
    assert TABLE.seconds(issued, chained) == pytest.approx((100 + 40 + 6) * 1e-9)


@given(counts, counts)
def test_more_work_never_takes_less_and_parts_never_less_than_the_whole(
    one: dict[str, int], other: dict[str, int]
) -> None:
    both = {label: one.get(label, 0) + other.get(label, 0) for label in one | other}
    whole = TABLE.seconds(both)
    assert max(TABLE.seconds(one), TABLE.seconds(other)) <= whole * (1 + 1e-9)
    assert whole <= (TABLE.seconds(one) + TABLE.seconds(other)) * (1 + 1e-9)


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(UnknownName, match="`div_f32 512` was not measured"):
        TABLE.seconds({"div_f32 512": 1})
    with pytest.raises(UnknownName, match="no unit is known for `sing`"):
        kind_of("sing")


def test_a_section_gives_the_table_and_every_row_of_it_has_a_kind() -> None:
    section: dict[str, Any] = units.measure(quick=True, say=lambda _: None)
    costs = Costs.of(section)
    assert set(costs.latency) == {
        f"{r['name']} {r['width_bits']}" for r in section["rows"] if r["suite"] == "latency"
    }
    for label in costs.throughput:
        assert kind_of(label)
    hz = section["frequency_hz"]["one"]
    assert costs.seconds({"add_i64 64": hz}) == pytest.approx(costs.throughput["add_i64 64"])
