"""Packing loses nothing it need not lose: what goes into a matrix comes out of it, wherever it lies.

Steps and minima are stored as float16. The simple block types have float16 steps, so they come back bit for
bit; the K types have a float16 step times a small integer, which is rounded once: half a unit in the last place
of the step. Floats that are requantised err by half a step and the rounding of the step itself.
"""  # noqa: E501

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed import (
    FORMATS,
    GROUPED,
    HALF_SCALED,
    K_TYPES,
    KERNEL_SETS,
    POOL,
    QUANTIZED,
    as_bf16,
    dequantized,
    fill,
    float_rows,
    matrix_of,
    multiply,
    random_rows,
    unpacked,
)

from trimtab import _native
from trimtab.formats.ggml_types import GGUF_TYPES, type_number

Floats = npt.NDArray[np.float32]

NATURAL = {
    "F32": "bf16", "F16": "bf16", "BF16": "bf16",
    "Q4_0": "q4", "Q4_1": "q4+min", "Q4_K": "q4+min", "Q2_K": "q4/16+min", "Q3_K": "q4/16",
    "Q5_0": "q8", "Q8_0": "q8", "IQ4_NL": "q8", "Q5_1": "q8+min", "Q5_K": "q8+min", "Q6_K": "q8/16",
}  # fmt: skip
HALF_STEP = 2.0**-11  # relative error of one rounding to float16


def parts(format: str) -> tuple[int, int, bool]:
    """Bits, group and minima of a grouped format's name."""
    return int(format[1]), 16 if "/16" in format else 32, format.endswith("+min")


def holds(format: str, natural: str) -> bool:
    """Whether the grouped `format` can hold everything that `natural` can."""
    (bits, group, minima), (least, largest, needed) = parts(format), parts(natural)
    return bits >= least and group <= largest and minima >= needed


def half(x: Floats) -> Floats:
    return np.asarray(x).astype(np.float16).astype(np.float32)


def packed_worth(name: str, rows: npt.NDArray[np.uint8], inputs: int) -> Floats:
    """The rows with their steps and minima rounded to float16, (rows, inputs)."""
    q, scale, minimum = _native.decode_groups(type_number(name), rows.reshape(-1), len(rows) * inputs)
    worth = half(scale)[:, :, None] * np.asarray(q).reshape(-1, 2, 16) + half(minimum)[:, :, None]
    return worth.astype(np.float32).reshape(len(rows), inputs)


def test_every_type_has_its_format() -> None:
    assert set(NATURAL) == set(GGUF_TYPES)
    for name, format in NATURAL.items():
        assert _native.natural_format(type_number(name)) == format


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("name", QUANTIZED)
def test_blocks_come_back(name: str, kernels: str) -> None:
    """In the type's own format and in every wider one; 21 rows are a tile and a part of one."""
    rows = random_rows(name, 21, 512, np.random.default_rng(1))
    wider = [format for format in GROUPED if holds(format, NATURAL[name])]
    assert NATURAL[name] in wider
    for format in wider:
        matrix = _native.Matrix(format, 21, 512)
        fill(matrix, name, rows)
        np.testing.assert_array_equal(unpacked(matrix, kernels), packed_worth(name, rows, 512), format)


@pytest.mark.parametrize("name", HALF_SCALED)
def test_blocks_with_half_steps_lose_nothing(name: str) -> None:
    rows = random_rows(name, 21, 96, np.random.default_rng(2), exponents=(-14, 3))
    np.testing.assert_array_equal(packed_worth(name, rows, 96), dequantized(name, rows, 96))


@pytest.mark.parametrize("name", K_TYPES)
def test_k_blocks_err_by_half_a_place_of_their_step(name: str) -> None:
    rows = random_rows(name, 21, 512, np.random.default_rng(3))
    q, scale, minimum = _native.decode_groups(type_number(name), rows.reshape(-1), 21 * 512)
    most = np.abs(scale[:, :, None] * np.asarray(q).reshape(-1, 2, 16)) + np.abs(minimum[:, :, None])
    error = np.abs(packed_worth(name, rows, 512) - dequantized(name, rows, 512))
    assert (error <= HALF_STEP * most.reshape(21, 512) * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", K_TYPES)
def test_steps_round_as_float16_down_to_the_subnormal(name: str) -> None:
    rows = random_rows(name, 32, 256, np.random.default_rng(4), exponents=(-24, -10))
    matrix = _native.Matrix(NATURAL[name], 32, 256)
    fill(matrix, name, rows)
    np.testing.assert_array_equal(unpacked(matrix), packed_worth(name, rows, 256))


def error_bound(weights: Floats, format: str) -> npt.NDArray[np.float64]:
    """Most that packing floats may change each of them, (rows, inputs)."""
    wide = weights.astype(np.float64)
    if format == "bf16":
        return np.abs(wide) * 2.0**-8
    if format == "int8":
        step = np.abs(wide).max(axis=1, keepdims=True) / 127
        return np.broadcast_to(step / 2 * (1 + 1e-5), wide.shape)
    bits, group, minima = parts(format)
    padding = -wide.shape[1] % group
    groups = np.pad(wide, ((0, 0), (0, padding))).reshape(len(wide), -1, group)
    low = np.minimum(groups.min(axis=2, keepdims=True), 0)
    high = np.maximum(groups.max(axis=2, keepdims=True), 0)
    if minima:
        step = (high - low) / (2**bits - 1)
        bound = step / 2 + HALF_STEP * (high - low) + HALF_STEP * np.abs(low)
    else:
        # A whole step at the far end: the larger side has one level more than the other.
        edge = np.maximum(high, -low)
        step = edge / 2 ** (bits - 1)
        bound = np.where(np.abs(groups) > edge - step, step, step / 2) + HALF_STEP * edge
    spread = np.broadcast_to(bound * (1 + 1e-5) + 2.0**-24, groups.shape)
    return spread.reshape(len(wide), -1)[:, : wide.shape[1]]


@pytest.mark.parametrize(("rows", "inputs"), [(1, 1), (16, 32), (17, 33), (5, 47), (40, 100)])
@pytest.mark.parametrize("format", FORMATS)
def test_floats_of_any_shape_err_by_half_a_step(format: str, rows: int, inputs: int) -> None:
    rng = np.random.default_rng(5)
    weights = rng.normal(0, 0.1, (rows, inputs)).astype(np.float32)
    weights[rows // 2] = 0
    weights[0, ::3] *= 100
    got = unpacked(matrix_of(format, weights))
    assert (np.abs(got - weights) <= error_bound(weights, format)).all()
    assert not got[rows // 2].any() or rows == 1


def test_bf16_rounds_to_even() -> None:
    weights = np.random.default_rng(6).normal(size=(19, 45)).astype(np.float32)
    np.testing.assert_array_equal(unpacked(matrix_of("bf16", weights)), as_bf16(weights))
    half_way = (np.arange(32, dtype=np.uint32) << 16 | 0x8000 | 0x3F800000).view(np.float32)[None]
    np.testing.assert_array_equal(unpacked(matrix_of("bf16", half_way)), as_bf16(half_way))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_float_types_read_alike(name: str) -> None:
    values = as_bf16(np.random.default_rng(7).uniform(1, 2, (18, 39)))  # exact in all three
    matrix = _native.Matrix("bf16", 18, 39)
    stored = {
        "F32": values,
        "F16": values.astype("<f2"),
        "BF16": (values.view(np.uint32) >> 16).astype("<u2"),
    }[name]
    fill(matrix, name, np.ascontiguousarray(stored).view(np.uint8).reshape(18, -1))
    np.testing.assert_array_equal(unpacked(matrix), values)


@pytest.mark.parametrize("format", ["q4", "q8+min", "int8", "bf16"])
def test_types_that_do_not_fit_are_requantised(format: str) -> None:
    rows = random_rows("Q6_K", 20, 256, np.random.default_rng(8))
    matrix = _native.Matrix(format, 20, 256)
    fill(matrix, "Q6_K", rows)
    exact = dequantized("Q6_K", rows, 256)
    assert (np.abs(unpacked(matrix) - exact) <= error_bound(exact, format)).all()


@settings(max_examples=40)
@given(st.data())
def test_rows_land_where_they_are_sent(data: st.DataObject) -> None:
    """Parts in turn, each a slice of its tensor in an order of its own."""
    format = data.draw(st.sampled_from(["q4+min", "q8+min", "bf16"]))
    names = data.draw(st.lists(st.sampled_from(["Q4_0", "Q4_1", "F32"]), min_size=1, max_size=3))
    counts = [data.draw(st.integers(0, 37)) for _ in names]
    total = sum(counts) + data.draw(st.integers(1, 20))
    matrix, row0, inputs = _native.Matrix(format, total, 64), 0, 64
    expected = np.zeros((total, inputs), np.float32)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    for name, count in zip(names, counts, strict=True):
        start, after = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 5))
        height = start + count + after
        rows = (
            float_rows(as_bf16(rng.normal(size=(height, inputs))))
            if name == "F32"
            else random_rows(name, height, inputs, rng)
        )
        order = rng.permutation(count + after)[:count] if data.draw(st.booleans()) else None
        fill(matrix, name, rows, row0, order=order, start=start, count=count)
        whole = _native.Matrix(format, height, inputs)  # the same tensor, rows as they come
        fill(whole, name, rows)
        expected[row0 : row0 + count] = unpacked(whole)[start:][np.arange(count) if order is None else order]
        row0 += count
    np.testing.assert_array_equal(unpacked(matrix), expected)


@pytest.mark.parametrize("rows", [1, 16, 40, 64])
@pytest.mark.parametrize("format", ["q4+min", "q8/16", "int8", "bf16"])
def test_gate_and_up_lie_side_by_side(format: str, rows: int) -> None:
    rng = np.random.default_rng(9)
    gate, up = rng.normal(size=(2, rows, 70)).astype(np.float32)
    got = unpacked(matrix_of(format, gate, up))
    np.testing.assert_array_equal(got[:rows], unpacked(matrix_of(format, gate)))
    np.testing.assert_array_equal(got[rows:], unpacked(matrix_of(format, up)))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_pack_the_same_bytes(threads: int) -> None:
    rows = random_rows("Q4_1", 300, 64, np.random.default_rng(10))
    one, many = _native.Matrix("q4+min", 300, 64), _native.Matrix("q4+min", 300, 64)
    fill(one, "Q4_1", rows)
    many.fill(_native.Pool(threads), 0, 0, type_number("Q4_1"), rows.reshape(-1), None, 0, 300)
    np.testing.assert_array_equal(unpacked(one), unpacked(many))


def test_stacked_types_share_a_format_that_loses_nothing() -> None:
    for first, second in itertools.product(QUANTIZED, repeat=2):
        pair = [NATURAL[first], NATURAL[second]]
        common = _native.common_format(pair)
        assert common == _native.common_format(pair[::-1])
        assert all(holds(common, format) for format in pair)
        narrower = [f for f in GROUPED if f != common and holds(common, f)]
        assert not any(holds(f, pair[0]) and holds(f, pair[1]) for f in narrower), "not the narrowest"
        matrix, rng = _native.Matrix(common, 23, 256), np.random.default_rng(11)
        for row0, name in ((0, first), (10, second)):
            rows = random_rows(name, 13 if row0 else 10, 256, rng)
            fill(matrix, name, rows, row0)
            worth = packed_worth(name, rows, 256)
            np.testing.assert_array_equal(unpacked(matrix)[row0 : row0 + len(rows)], worth)


def test_floats_among_the_parts_make_the_whole_bf16() -> None:
    for format in GROUPED:
        assert _native.common_format([format, "bf16"]) == _native.common_format(["bf16", format]) == "bf16"
    assert _native.common_format(["bf16", "bf16"]) == "bf16"


@pytest.mark.parametrize("format", FORMATS)
def test_sizes_are_known_beforehand(format: str) -> None:
    for rows, inputs, gated in [(1, 1, False), (259, 96, False), (40, 100, True), (160, 96, True)]:
        matrix = _native.Matrix(format, rows, inputs, gated)
        assert matrix.nbytes == _native.matrix_bytes(format, rows, inputs, gated)
        assert (matrix.rows, matrix.inputs, matrix.gated, matrix.format) == (rows, inputs, gated, format)


def bits_a_weight(format: str) -> float:
    return 8 * _native.matrix_bytes(format, 4096, 4096, False) / 4096**2


def test_bits_a_weight_are_the_stated_ones() -> None:
    assert bits_a_weight("q4") == 4.5
    assert bits_a_weight("q4+min") == 5
    assert bits_a_weight("q8/16+min") == 10
    assert bits_a_weight("bf16") == 16
    assert bits_a_weight("int8") == 8 + 32 / 4096


def test_a_matrix_nobody_filled_is_zero() -> None:
    x = np.ones((1, 40), np.float32)
    for format in FORMATS:
        assert not multiply(_native.Matrix(format, 20, 40), x).any()


GOOD: dict[str, Any] = {"row0": 0, "half": 0, "type": 0, "order": None, "start": 0, "count": 4}


@pytest.mark.parametrize(
    "change",
    [
        {"row0": -1},
        {"row0": 1},
        {"row0": 2**63 - 1},
        {"half": 1},
        {"half": -1},
        {"count": 5},
        {"count": -1},
        {"start": 1},
        {"start": -1},
        {"start": 2**63 - 1},
        {"order": np.arange(3)},
        {"order": np.array([0, 1, 2, 4])},
        {"order": np.array([0, 1, 2, -1])},
        {"type": 2},  # 16 inputs are no whole block of Q4_0
        {"type": 4},
        {"type": -7},
    ],
)
def test_rows_outside_are_refused(change: dict[str, Any]) -> None:
    matrix = _native.Matrix("bf16", 4, 16)
    data = np.full(4 * 64, 1, np.uint8)
    with pytest.raises(ValueError, match=r"row|order"):
        matrix.fill(POOL, data=data, **(GOOD | change))
    assert not unpacked(matrix).any()
    matrix.fill(POOL, data=data, **GOOD)
    assert unpacked(matrix).any()


@pytest.mark.parametrize("format", ["", "q3", "q4/8", "q4+", "q4+min/16", "int4", "q44", "bf16+min"])
def test_unknown_formats_are_refused(format: str) -> None:
    with pytest.raises(ValueError, match="no weight format"):
        _native.Matrix(format, 16, 32)


@pytest.mark.parametrize(("rows", "inputs"), [(0, 1), (1, 0), (-1, 5), (2**40, 2), (1, 2**30)])
def test_impossible_sizes_are_refused(rows: int, inputs: int) -> None:
    with pytest.raises(ValueError, match="impossible size"):
        _native.Matrix("bf16", rows, inputs)
