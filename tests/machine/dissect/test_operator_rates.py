"""Rates are found again from times that they made, and predict steps of other shapes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import OPERATIONS

from trimtab.errors import NotMeasured
from trimtab.machine.dissect.operator_rates import OperatorRates, Rate, Sample, errors, fit, key_of
from trimtab.machine.dissect.work import Shape, Work, work
from trimtab.machine.profile import Profile, Section

SHAPES = (Shape(1, 1, [(1, 100)]), Shape(8, 8, [(1, 40)] * 8), Shape(300, 1, [(300, 0)]))


@given(st.floats(1e-7, 1e-5), st.floats(1e8, 1e12))
def test_an_elementwise_kind_is_found_again(fixed: float, rate: float) -> None:
    samples = [Sample("norm", ops, 0.0, fixed + ops / rate) for ops in (1e3, 2e4, 5e5)]
    found = fit(samples).rates["norm"]
    for sample in samples:
        assert found.seconds(Work({"float32": sample.ops})) == pytest.approx(sample.seconds, rel=1e-3)


@given(st.floats(1e-7, 1e-5), st.floats(1e9, 1e11), st.floats(1e10, 1e12))
def test_a_product_pays_for_memory_or_for_arithmetic(fixed: float, memory: float, peak: float) -> None:
    """One row tells fixed cost and memory; more rows tell arithmetic where it is the limit."""
    true = Rate(fixed, peak, memory)
    samples = []
    for nbytes in (2e5, 5e5, 1e6):
        for rows, last in ((1, "1"), (8, "8"), (300, "more")):
            done = Work({"int8": 4.0 * nbytes * rows}, nbytes, rows=rows)
            seconds = done.streamed_bytes / memory + fixed if rows == 1 else true.seconds(done)
            samples.append(Sample(f"product q4, {last}", done.total_ops, nbytes, seconds))
    found = fit(samples).rates
    for sample in samples:
        rate = found[sample.key]
        done = Work({"int8": sample.ops}, sample.streamed_bytes)
        assert rate.seconds(done) == pytest.approx(sample.seconds, rel=1e-3)


def test_keys_tell_formats_caches_and_classes_apart() -> None:
    named = {name: [key_of(operation, shape) for shape in SHAPES] for name, operation in zip(
        ("embed", "norm", "qkv", "attend", "pack", "down", "head"), OPERATIONS, strict=True)}  # fmt: skip
    assert named["qkv"] == ["product q4, 1", "product q4, 8", "product q4, more"]
    assert named["attend"] == ["attend bf16, decode", "attend bf16, decode", "attend bf16, prefill"]
    assert named["norm"] == ["norm"] * 3
    assert key_of(OPERATIONS[-1], Shape(1, 1, [(1, 0)], sketched=True)) == "head q8 sketched, 1"
    assert named["head"] == ["head q8 sampled, 1", "head q8 sampled, 8", "head q8 sampled, 1"]


def rates(seconds: float = 1e-6) -> OperatorRates:
    kinds = {key_of(operation, shape) for operation in OPERATIONS for shape in SHAPES}
    return OperatorRates({kind: Rate(seconds, 1e12, 1e10) for kind in kinds})


def test_a_step_is_the_sum_of_its_operations() -> None:
    for shape in SHAPES:
        parts = [rates().seconds(operation, shape) for operation in OPERATIONS]
        assert rates().step_seconds(OPERATIONS, shape) == pytest.approx(sum(parts))
        for operation, seconds in zip(OPERATIONS, parts, strict=True):
            assert seconds == pytest.approx(Rate(1e-6, 1e12, 1e10).seconds(work(operation, shape)))


def test_a_mixed_step_attends_in_two_ways() -> None:
    attend = OPERATIONS[3]
    known = OperatorRates({"attend bf16, decode": Rate(1e-6), "attend bf16, prefill": Rate(5e-6)})
    assert known.seconds(attend, Shape(31, 2, [(1, 9), (30, 0)])) == pytest.approx(6e-6)


def test_a_class_that_is_missing_borrows_and_a_kind_is_refused() -> None:
    known = OperatorRates({"product q4, 1": Rate(3e-6)})
    assert known.seconds(OPERATIONS[2], SHAPES[2]) == 3e-6
    with pytest.raises(NotMeasured, match="norm"):
        known.seconds(OPERATIONS[1], SHAPES[0])


def test_rates_go_through_the_profile() -> None:
    date = datetime.now(UTC).isoformat()
    data = {"threads": 2, **rates().to_data()}
    profile = Profile.empty().with_section("operators", Section(data, date))
    assert OperatorRates.of(profile) == OperatorRates.of(profile, 2) == rates()
    with pytest.raises(NotMeasured, match="2 threads"):
        OperatorRates.of(profile, 3)
    with pytest.raises(NotMeasured, match="operators"):
        OperatorRates.of(Profile.empty())


def test_errors_have_no_sign() -> None:
    found: Any = errors([1.0, 1.2, 0.5], [1.0, 1.0, 1.0])
    assert found == {"median": pytest.approx(0.2), "worst": pytest.approx(0.5)}
