"""How a multiply is cut into pieces never changes its result, and every knob changes what is executed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed import FORMATS, KERNEL_SETS, matrix_of

from trimtab import _native

BLOCKINGS = st.builds(
    dict,
    tiles=st.integers(0, 4),
    strip_bytes=st.sampled_from([0, 1, 4096, 65536]),
    grain=st.sampled_from([0, 1, 2, 3, 5, 16]),
)
FORMS = [(format, "") for format in FORMATS] + [("bf16", "half")]


def product(
    matrix: object, x: np.ndarray, form: str, kernels: str, block_rows: int, **blocking: int
) -> np.ndarray:
    out = np.full((len(x), -(-matrix.rows // 32) * 32), np.nan, np.float32)
    _native.linear(
        _native.Pool(2), _native.choose_kernels(kernels), matrix, x, out, form or matrix.form[0], block_rows,
        1, _native.Blocking(**blocking),
    )  # fmt: skip
    return out[:, : matrix.rows]


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize(("format", "form"), FORMS)
@pytest.mark.parametrize("gated", [False, True])
@settings(max_examples=12, deadline=None)
@given(
    blocking=BLOCKINGS, rows=st.integers(1, 27), block_rows=st.integers(1, 12), outputs=st.integers(1, 200)
)
def test_results_do_not_depend_on_the_blocking(
    format: str, form: str, gated: bool, kernels: str, blocking: dict[str, int], rows: int, block_rows: int,
    outputs: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(outputs)
    weights = rng.normal(size=(2, outputs, 70))
    matrix = matrix_of(format, weights[0], weights[1] if gated else None)
    x = rng.normal(size=(rows, 70)).astype(np.float32)
    expected = product(matrix, x, form, kernels, 1)
    most = _native.choose_kernels(kernels).max_rows
    assert np.array_equal(product(matrix, x, form, kernels, min(block_rows, most), **blocking), expected)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@given(most=st.integers(0, 40), rows=st.integers(1, 5000))
def test_blocks_cover_the_rows_evenly(kernels: str, most: int, rows: int) -> None:
    chosen = _native.choose_kernels(kernels)
    block = _native.block_rows(chosen, most, rows)
    assert 1 <= block <= chosen.max_rows
    blocks = math.ceil(rows / block)
    assert blocks * block - rows < blocks  # no block lacks more than one row of the even share
    if 0 < most <= chosen.max_rows:
        assert block <= most


def test_impossible_blockings_are_refused() -> None:
    for wrong in ({"tiles": 5}, {"rows": -1}, {"rows": 256}, {"strip_bytes": -1}, {"grain": -1}):
        with pytest.raises(ValueError, match="blocking"):
            _native.Blocking(**wrong)


def test_a_timer_refuses_what_does_not_fit() -> None:
    timer = _native.MultiplyTimer(_native.choose_kernels(""), 1 << 16, 1 << 16)
    pool, blocking = _native.Pool(1), _native.Blocking()
    good = [pool, "int8", "token", 3, 32, 64, False, blocking, True, 0.0, 2]
    assert all(seconds > 0 for seconds in timer.time(*good))
    for at, value in ((3, 0), (3, 1 << 19), (4, 1 << 20), (5, 1 << 20), (9, -1.0), (10, 0)):
        with pytest.raises(ValueError, match=r"size|larger"):
            timer.time(*good[:at], value, *good[at + 1 :])
    for at, value in ((1, "q3"), (2, "plain")):
        with pytest.raises(ValueError, match="no "):
            timer.time(*good[:at], value, *good[at + 1 :])
