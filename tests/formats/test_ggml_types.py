"""Block formats against the published `gguf` package, bit for bit, over random bytes."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from trimtab import _native
from trimtab.errors import Unsupported
from trimtab.formats.ggml_types import GGUF_TYPES, OTHER_TYPES, type_number

ROWS, COLUMNS = 40, 512
QUANTIZED = [name for name, kind in GGUF_TYPES.items() if kind.weights > 1]
WITH_MINIMA = {"Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"}


def random_rows(name: str, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Random bytes: every code, every scale, subnormal, infinite and not-a-number ones included."""
    columns = GGUF_TYPES[name].size(COLUMNS)
    return np.random.default_rng(seed).integers(0, 256, (ROWS, columns), dtype=np.uint8)


def published(name: str, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    with np.errstate(all="ignore"):
        values: npt.NDArray[np.float32] = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[name])
    return values


@pytest.mark.parametrize("name", GGUF_TYPES)
def test_dequantized_values_are_the_published_bits(name: str) -> None:
    rows = random_rows(name)
    expected = published(name, rows).reshape(-1)
    got = _native.dequantize(type_number(name), rows.reshape(-1), ROWS * COLUMNS)
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(got.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])
    assert (~nan).any()


@pytest.mark.parametrize("name", QUANTIZED)
def test_groups_are_integers_with_a_step_and_a_minimum(name: str) -> None:
    rows = random_rows(name, seed=1)
    expected = published(name, rows).reshape(-1, 2, 16)
    q, scale, minimum = _native.decode_groups(type_number(name), rows.reshape(-1), ROWS * COLUMNS)
    with np.errstate(all="ignore"):
        values = scale[:, :, None] * q.reshape(-1, 2, 16).astype(np.float32) + minimum[:, :, None]
    assert np.array_equal(values, expected, equal_nan=True)
    assert name in WITH_MINIMA or not minimum.any()


@pytest.mark.parametrize("name", GGUF_TYPES)
def test_the_table_is_the_published_one(name: str) -> None:
    kind = GGUF_TYPES[name]
    number = gguf.GGMLQuantizationType[name]
    assert (kind.weights, kind.nbytes) == gguf.GGML_QUANT_SIZES[number]
    assert kind.number == int(number)
    assert _native.row_bytes(kind.number, 512) == kind.size(512)


def test_types_that_are_not_read_have_their_published_names() -> None:
    for number, name in OTHER_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == name
    with pytest.raises(Unsupported, match="IQ4_XS"):
        type_number("IQ4_XS")


def test_partial_blocks_and_short_data_are_refused() -> None:
    assert _native.row_bytes(2, 33) == -1
    assert _native.row_bytes(9, 32) == -1
    with pytest.raises(ValueError, match="33 weights"):
        _native.dequantize(2, np.zeros(40, np.uint8), 33)
    with pytest.raises(ValueError, match="needs 18 bytes, got 17"):
        _native.dequantize(2, np.zeros(17, np.uint8), 32)
    with pytest.raises(ValueError, match="-32 weights"):
        _native.dequantize(2, np.zeros(18, np.uint8), -32)
    with pytest.raises(ValueError, match="no groups"):
        _native.decode_groups(0, np.zeros(128, np.uint8), 32)


def test_no_weights_are_no_values() -> None:
    for kind in GGUF_TYPES.values():
        assert _native.dequantize(kind.number, np.zeros(0, np.uint8), 0).shape == (0,)


def test_any_address_will_do() -> None:
    rows = random_rows("Q4_K").reshape(-1)
    shifted = np.concatenate([np.zeros(1, np.uint8), rows])[1:]
    expected = _native.dequantize(12, rows, ROWS * COLUMNS)
    assert np.array_equal(_native.dequantize(12, shifted, ROWS * COLUMNS), expected, equal_nan=True)
