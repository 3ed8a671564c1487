"""The matrix product of every format and kernel set against float64, and against each other bit for bit.

Activations are rounded as `kernels.quantize` defines; after that nothing may be lost but float32 roundings of
the sums, so tolerances count roundings. Where weights and steps are integers there are none, and results are
compared for equality.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from packed import (
    FORMATS,
    GROUPED,
    KERNEL_SETS,
    ULP,
    as_bf16,
    matrix_of,
    multiply,
    unpacked,
)

from trimtab import _native
from trimtab.kernels.quantize import quantize_rows

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

SHAPES = [(1, 1), (16, 32), (50, 33), (37, 100), (96, 160)]  # outputs, inputs
MOST_ROWS = 13
FORMS = [(format, "") for format in FORMATS] + [("bf16", "half")]


def ways(kernels: str, most: int = MOST_ROWS) -> Iterator[tuple[int, int]]:
    """Every number of rows with every block size of a kernel set."""
    for block_rows in range(1, _native.choose_kernels(kernels).max_rows + 1):
        for rows in range(1, most + 1):
            yield rows, block_rows


def rounded(x: Floats, format: str, form: str = "") -> Doubles:
    """The activations as the format multiplies them."""
    if format == "bf16":
        return (as_bf16(x) if form == "half" else x).astype(np.float64)
    group = 0 if format == "int8" else 32
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % 32)))
    q, scale = quantize_rows(torch.from_numpy(padded), group)
    groups = q.numpy().reshape(len(x), scale.shape[1], -1).astype(np.float64)
    return (groups * scale.numpy().astype(np.float64)[:, :, None]).reshape(len(x), -1)[:, : x.shape[1]]


def tolerance(x: Doubles, weights: Doubles, format: str) -> Doubles:
    """Bound of the float32 roundings, (rows, outputs)."""
    sizes = np.abs(x) @ np.abs(weights).T
    if format == "bf16":
        return ULP * (weights.shape[1] + 4) * sizes  # a rounding a product
    if format == "int8":
        return ULP * 4 * sizes  # integers, then their float and two steps
    # Each group (or half group) adds a product of two steps and a minimum. The unsigned values reach over
    # twice the weights' span, so what is added may be three times what remains.
    groups = -(-weights.shape[1] // 16)
    peak = np.abs(x).sum(axis=1)[:, None] * np.abs(weights).max(axis=1)
    return ULP * (2 * groups + 4) * 3 * peak


def integer_weights(format: str, rows: int, inputs: int, rng: np.random.Generator) -> Floats:
    """Weights whose steps and minima are whole numbers, and which hold every level of the format."""
    if format == "bf16":
        return rng.integers(-255, 256, (rows, inputs)).astype(np.float32)
    if format == "int8":
        weights = rng.integers(-127, 128, (rows, inputs))
        weights[:, -1] = 127
        return weights.astype(np.float32)
    levels, minima = 16 if format.startswith("q4") else 256, format.endswith("+min")
    low = -(levels // 4) if minima else -(levels // 2)
    weights = rng.integers(low, low + levels, (rows, inputs))
    span = 16 if "/16" in format else 32
    for start in range(0, inputs, span):  # both ends in every group: the step is 1
        weights[:, start] = low
        if minima:
            last = min(start + span, inputs) - 1
            weights[:, last] = low + levels - 1 if last > start else levels - 1  # zero is an end too
    return weights.astype(np.float32)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize(("format", "form"), FORMS)
def test_integers_multiply_exactly(format: str, form: str, kernels: str) -> None:
    """Any rows, any block, any shape: a wrong lane, line or correction changes an integer."""
    rng = np.random.default_rng(1)
    for outputs, inputs in SHAPES:
        weights = integer_weights(format, outputs, inputs, rng)
        matrix = matrix_of(format, weights)
        assert np.array_equal(unpacked(matrix, kernels), weights)
        x = rng.integers(-127, 128, (MOST_ROWS, inputs)).astype(np.float32)
        x[:, ::32] = 127 * rng.choice([-1, 1], x[:, ::32].shape)  # the activations' step is 1 too
        expected = x.astype(np.int64) @ weights.astype(np.int64).T
        for rows, block_rows in ways(kernels):
            got = multiply(matrix, x[:rows], kernels, form, block_rows)
            assert np.array_equal(got, expected[:rows]), (outputs, inputs, rows, block_rows)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize(("format", "form"), FORMS)
def test_products_err_by_float_rounding_only(format: str, form: str, kernels: str) -> None:
    rng = np.random.default_rng(2)
    for outputs, inputs in SHAPES:
        matrix = matrix_of(format, rng.normal(0, 0.2, (outputs, inputs)))
        weights = unpacked(matrix, kernels).astype(np.float64)
        x = rng.normal(0, 3, (MOST_ROWS, inputs)).astype(np.float32)
        exact = rounded(x, format, form)
        got = multiply(matrix, x, kernels, form)
        assert (np.abs(got - exact @ weights.T) <= tolerance(exact, weights, format)).all()


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize(("format", "form"), FORMS)
def test_a_row_does_not_depend_on_the_others(format: str, form: str, kernels: str) -> None:
    rng = np.random.default_rng(3)
    matrix = matrix_of(format, rng.normal(size=(50, 100)))
    x = rng.normal(size=(MOST_ROWS, 100)).astype(np.float32)
    alone = np.concatenate([multiply(matrix, x[i : i + 1], kernels, form) for i in range(MOST_ROWS)])
    for rows, block_rows in ways(kernels):
        together = multiply(matrix, x[:rows], kernels, form, block_rows)
        assert np.array_equal(together, alone[:rows]), (rows, block_rows)
    turned = multiply(matrix, x[::-1].copy(), kernels, form, block_rows)
    assert np.array_equal(turned, alone[::-1])


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads: int) -> None:
    rng = np.random.default_rng(4)
    pool = _native.Pool(threads)
    for format in FORMATS:
        matrix = matrix_of(format, rng.normal(size=(300, 64)))
        x = rng.normal(size=(5, 64)).astype(np.float32)
        assert np.array_equal(multiply(matrix, x, pool=pool), multiply(matrix, x))


@pytest.mark.parametrize("format", [*GROUPED, "int8"])
def test_kernel_sets_differ_by_float_rounding_only(format: str) -> None:
    """Fused or not, and in which order lanes are added: nothing else may differ."""
    rng = np.random.default_rng(5)
    matrix = matrix_of(format, rng.normal(size=(48, 256)))
    x = rng.normal(size=(4, 256)).astype(np.float32)
    best, *others = (multiply(matrix, x, kernels) for kernels in KERNEL_SETS)
    bound = tolerance(rounded(x, format), unpacked(matrix).astype(np.float64), format)
    for other in others:
        assert (np.abs(best - other) <= bound).all()


def extremes() -> dict[str, Floats]:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(3, 100)).astype(np.float32)
    outlier = x.copy()
    outlier[:, 40] = 1e6
    ties = np.full((3, 100), 0.5, np.float32)
    ties[:, ::32] = 127  # 0.5 lies between two steps: to the even one
    return {
        "zero": np.zeros((3, 100), np.float32),
        "huge": x * np.float32(1e35),
        "small": x * np.float32(1e-30),
        "outlier": outlier,
        "one": np.eye(3, 100, 67, dtype=np.float32),
        "equal": np.full((3, 100), -0.3, np.float32),
        "ties": ties,
    }


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize(("format", "form"), FORMS)
def test_extreme_activations(format: str, form: str, kernels: str) -> None:
    weights_in = np.random.default_rng(7).normal(size=(40, 100))
    matrix = matrix_of(format, weights_in)
    weights = unpacked(matrix, kernels).astype(np.float64)
    for name, x in extremes().items():
        exact = rounded(x, format, form)
        got = multiply(matrix, x, kernels, form, block_rows=2)
        bound = tolerance(exact, weights, format)
        assert (np.abs(got - exact @ weights.T) <= bound).all(), name
        assert name != "zero" or not got.any()


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("format", FORMATS)
def test_activations_below_every_step_stay_small(format: str, kernels: str) -> None:
    """Under 127 / 2**128 the inverse of a step is no float: results may be wrong, but must stay negligible."""  # noqa: E501
    matrix = matrix_of(format, np.random.default_rng(8).normal(size=(40, 64)))
    for size in (1e-37, 1e-40, 1e-45):
        got = multiply(matrix, np.full((2, 64), size, np.float32), kernels)
        assert np.isfinite(got).all()
        assert np.abs(got).max() < 1e-25


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("format", FORMATS)
def test_gate_times_up(format: str, kernels: str) -> None:
    """silu has a slope below 1.1; its exponential errs by 2**-22 of itself, its quotient by two roundings."""
    rng = np.random.default_rng(9)
    for outputs, inputs in [(1, 40), (16, 32), (32, 33), (40, 100), (48, 64), (160, 96)]:
        gate, up = rng.normal(0, 0.3, (2, outputs, inputs))
        matrix = matrix_of(format, gate, up)
        wide = unpacked(matrix, kernels).astype(np.float64)
        x = rng.normal(0, 2, (MOST_ROWS, inputs)).astype(np.float32)
        exact = rounded(x, format)
        g, u = exact @ wide[:outputs].T, exact @ wide[outputs:].T
        g_off, u_off = tolerance(exact, wide[:outputs], format), tolerance(exact, wide[outputs:], format)
        expected = g / (1 + np.exp(-g)) * u
        bound = 1.1 * g_off * np.abs(u) + np.abs(g) * u_off + 10 * ULP * np.abs(g * u)
        first = multiply(matrix, x, kernels)
        assert (np.abs(first - expected) <= bound * 1.01).all(), (outputs, inputs)
        for rows, block_rows in ways(kernels):
            got = multiply(matrix, x[:rows], kernels, block_rows=block_rows)
            assert np.array_equal(got, first[:rows]), (outputs, inputs, rows, block_rows)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("gated", [False, True])
def test_what_pads_a_tile_stays_out_of_the_way(format: str, gated: bool) -> None:
    """The last tile's spare lanes answer zero, whatever the memory behind the matrix holds."""
    rng = np.random.default_rng(10)
    for kernels in KERNEL_SETS:
        for outputs in (1, 40, 50):
            weights = rng.normal(size=(outputs, 64))
            matrix = matrix_of(format, weights, weights if gated else None)
            out = np.full((2, -(-outputs // 32) * 32), np.nan, np.float32)
            x = rng.normal(size=(2, 64)).astype(np.float32)
            chosen = _native.choose_kernels(kernels)
            _native.linear(_native.Pool(1), chosen, matrix, x, out, matrix.form[0], 1)
            written = out[:, outputs:] if gated else out[:, outputs : -(-outputs // 16) * 16]
            assert not written.any()


def test_wrong_arrays_are_refused() -> None:
    matrix = matrix_of("q4", np.ones((20, 40)))
    pool, kernels = _native.Pool(1), _native.choose_kernels("")
    good = [np.ones((3, 40), np.float32), np.zeros((3, 32), np.float32), "grouped", 1]
    wrong = [
        (0, np.ones((3, 41), np.float32)),
        (0, np.ones((2, 40), np.float32)),
        (0, np.ones(120, np.float32)),
        (1, np.zeros((3, 20), np.float32)),
        (2, "packed"),
        (3, 0),
        (3, kernels.max_rows + 1),
    ]
    _native.linear(pool, kernels, matrix, *good)
    for at, value in wrong:
        with pytest.raises(ValueError, match=r"x: \(rows, inputs\)|no activation form"):
            _native.linear(pool, kernels, matrix, *good[:at], value, *good[at + 1 :])
    with pytest.raises(ValueError, match="avx512"):
        _native.choose_kernels("avx1024")
