"""Products, the ways to cut them, and files of products."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
from gemm_case import KERNELS, ROOFS
from hypothesis import given
from hypothesis import strategies as st

from trimtab import _native
from trimtab.errors import BadFile
from trimtab.machine.gemm import features, shapes
from trimtab.machine.gemm.blocking import DEFAULT, Blocking, Kernel, candidates, units_of
from trimtab.machine.gemm.shapes import Shape

SHAPES = st.builds(Shape, st.integers(1, 4096), st.integers(1, 20000), st.integers(1, 20000), st.booleans())


def test_every_layer_of_the_models_is_there_within_reason() -> None:
    found = shapes.llm()
    assert len(set(found)) == len(found)
    assert max(shape.ops for shape in found) <= shapes.MOST_OPS
    for layers in shapes.LAYERS.values():
        for layer in layers:
            assert {shape.m for shape in found if shape[1:] == layer} >= {1, 2, 4, 8, 16, 32, 64, 128}
    assert {shape[1:] for shape in found if max(shape[1:3]) >= 8192} > set(shapes.WIDE)


def test_the_grid_fills_the_logarithms_evenly() -> None:
    found = shapes.grid(200)
    assert len(set(found)) == 200
    assert sum(shape.gated for shape in found) == pytest.approx(50, abs=15)
    logs = np.log2([shape[:3] for shape in found])
    for column, (low, high) in zip(logs.T, ((0, 11), (6, 14), (6, 14)), strict=True):
        counts, _ = np.histogram(column, bins=4, range=(low, high))
        assert counts.min() > 15, "a quarter of a side has next to no products"


@given(SHAPES, st.sampled_from(list(KERNELS)), st.integers(1, 8))
def test_every_candidate_changes_what_is_executed(shape: Shape, format: str, threads: int) -> None:
    kernel = KERNELS[format]
    default, *others = candidates(kernel, shape, threads)
    assert default == DEFAULT
    executed = {(kernel.rows_of(way, shape.m), way.tiles, way.strip_bytes, way.grain) for way in others}
    assert len(executed) == len(others)
    for way in others:
        assert 1 <= way.tiles <= max(1, kernel.sums // kernel.rows_of(way, shape.m))
        assert 1 <= way.grain <= math.ceil(units_of(shape) / threads)
        assert kernel.tiles_of(way, shape.m) == way.tiles, "the kernels would compute fewer tiles together"
        _native.Blocking(*way)


@pytest.mark.parametrize("set_name", _native.kernel_sets())
@given(m=st.integers(1, 5000), rows=st.integers(0, 20))
def test_blocks_are_cut_as_the_kernels_cut_them(set_name: str, m: int, rows: int) -> None:
    kernels = _native.choose_kernels(set_name)
    for format in KERNELS:
        kernel = Kernel.of(format, kernels)
        block = kernel.rows_of(Blocking(rows), m)
        assert block == _native.block_rows(kernels, rows, m)
        assert min(4, max(1, kernel.sums // block)) == _native.tiles_most(kernels, kernel.form, block)


@given(SHAPES, st.sampled_from(list(KERNELS)), st.sampled_from([1, 2]), st.data())
def test_features_are_finite_and_named(shape: Shape, format: str, threads: int, data: st.DataObject) -> None:
    way = data.draw(st.sampled_from(candidates(KERNELS[format], shape, threads)))
    row = features.features(KERNELS[format], shape, way, ROOFS[threads])
    assert row.shape == (len(features.NAMES),)
    assert np.isfinite(row).all()
    plain = features.plain_features(KERNELS[format], shape, way)
    assert plain.shape == (len(features.PLAIN_NAMES),)
    assert np.isfinite(plain).all()


def test_files_of_products(tmp_path: Path) -> None:
    path = tmp_path / "products.txt"
    path.write_text("# a comment\n1 2 3\n\n512, 4096,4096 gated # behind\n1 2 3\n")
    assert shapes.read(path) == [Shape(1, 2, 3), Shape(512, 4096, 4096, True)]
    for wrong in ("1 2", "1 2 3 4", "0 2 3", "1 2 -3", "1 2 x", "1 2 3 fast", "12345678 1 1", "gated", ""):
        path.write_text(wrong)
        with pytest.raises(BadFile, match=r"product"):
            shapes.read(path)
    with pytest.raises(BadFile, match="cannot be read"):
        shapes.read(tmp_path / "missing")


@given(st.binary(max_size=200))
def test_any_bytes_are_products_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "products"
    path.write_bytes(content)
    with contextlib.suppress(BadFile):
        assert all(min(shape[:3]) >= 1 for shape in shapes.read(path))
