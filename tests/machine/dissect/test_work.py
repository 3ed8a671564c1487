"""Work of operations against another way of counting it: position by position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import CACHE, CEILINGS, OPERATIONS, PRODUCT

from trimtab.errors import UnknownName
from trimtab.machine.dissect.step_cost import CLASSES, arithmetic_seconds, cost, step_cost
from trimtab.machine.dissect.work import Shape, Work, work

PARTS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 100)), min_size=1, max_size=4)


@given(PARTS, st.integers(0, 60))
def test_attention_counts_what_each_query_sees(parts: list[tuple[int, int]], window: int) -> None:
    shape = Shape(sum(rows for rows, _ in parts), 1, parts)
    pairs, pages = 0, set()
    for number, (rows, first) in enumerate(parts):
        for position in range(first, first + rows):
            seen = range(max(0, position - window + 1) if window else 0, position + 1)
            pairs += len(seen)
            pages |= {(number, each // 16) for each in seen}
    assert shape.attended(window) == pairs
    assert shape.positions(window) == 16 * len(pages)


def test_a_product_reads_its_weights_once_and_multiplies_every_row() -> None:
    few, many = (work({"kind": "multiply", **PRODUCT}, Shape(n, n, [(n, 0)])) for n in (1, 8))
    assert few.ops["int8"] == 2 * 32 * 64
    assert many.ops["int8"] == 8 * few.ops["int8"]
    assert few.streamed_bytes == many.streamed_bytes == 1152
    assert few.local_bytes == 32 * 1.25 + 64 * 4 + 64 * 4  # activations in, results out, residual in
    gated = work({"kind": "gated", **PRODUCT, "gated": True}, Shape(1, 1, [(1, 0)]))
    assert gated.ops["int8"] == 2 * few.ops["int8"]


def test_the_sketch_reads_itself_and_what_it_reopens() -> None:
    head = OPERATIONS[-1]
    whole = work(head, Shape(1, 1, [(1, 5)]))
    rough = work(head, Shape(1, 1, [(1, 5)], sketched=True, opened=2))
    assert whole.streamed_bytes == 4352
    assert rough.streamed_bytes == 2304 + 2 * 4352 / 8
    assert rough.ops["int8"] == whole.ops["int8"] * (1 + 2 / 8)
    assert work(head, Shape(4, 0, [(4, 0)])).total_ops == 0


@pytest.mark.parametrize(
    ("kv_type", "units"),
    [("bf16", {"bf16", "float32"}), ("int8", {"int8", "float32"}), ("f32", {"float32"})],
)
def test_attention_by_type_of_cache(kv_type: str, units: set[str]) -> None:
    found = work(
        {"kind": "attend", "width": 32, "window": 0, **CACHE, "kv_type": kv_type}, Shape(1, 1, [(1, 9)])
    )
    assert set(found.ops) == units
    assert found.total_ops == 2 * 10 * (4 * 16 + 12)  # heads, positions, products and the exponential


def test_unknown_operations_are_named() -> None:
    with pytest.raises(UnknownName, match="convolve"):
        work({"kind": "convolve"}, Shape(1, 1, [(1, 0)]))


def test_a_shape_knows_its_stage() -> None:
    assert Shape(2, 2, [(1, 4), (1, 9)]).kind == "decode"
    assert Shape(3, 3, [(3, 4)]).kind == "decode"  # one token and two drafted ones
    assert Shape(30, 1, [(30, 0)]).kind == "prefill"
    assert Shape(31, 2, [(30, 0), (1, 7)]).kind == "mixed"


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 5))
def test_the_class_is_the_largest_part(ops: float, streamed: float, local: float, regions: int) -> None:
    found = cost(Work({"int8": ops}, streamed, local, regions), CEILINGS, streamed)
    parts = (ops / 1e11, (streamed + local) / 2e10, regions * 1e-6)
    assert found.seconds == pytest.approx(max(parts[:2]) + parts[2])
    assert parts[CLASSES.index(found.limited_by)] == pytest.approx(max(parts))


def test_a_step_costs_the_sum_of_its_operations() -> None:
    shape = Shape(4, 1, [(4, 0)])
    found = step_cost(OPERATIONS, shape, CEILINGS)
    alone = [work(operation, shape) for operation in OPERATIONS]
    streamed = sum(each.streamed_bytes for each in alone)
    assert list(found.works) == alone
    assert found.seconds == pytest.approx(sum(cost(each, CEILINGS, streamed).seconds for each in alone))
    assert 0 < arithmetic_seconds(alone, CEILINGS) < found.seconds
