"""The predictor on times with a known law: it finds it, keeps within its band, and reaches past its data."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from gemm_case import KERNELS, ROOFS, law, rows_by
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import _native
from trimtab.errors import NotMeasured, Unsupported
from trimtab.machine.gemm import choice, model, validate
from trimtab.machine.gemm.blocking import DEFAULT, NAIVE, Blocking
from trimtab.machine.gemm.collect import Task
from trimtab.machine.gemm.model import GemmModel
from trimtab.machine.gemm.shapes import Shape, grid

NOISE = 0.04


@pytest.fixture(scope="module", autouse=True)
def _fewer_trees() -> Iterator[None]:
    """As many as the simple law needs; the real ones take four times as long to grow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "TREES", 120)
        patch.setattr(validate, "RECIPE_TREES", 20)
        yield


@pytest.fixture(scope="module")
def fitted(_fewer_trees: None) -> GemmModel:
    return model.fit(rows_by(noise=NOISE, ways=2), KERNELS, ROOFS)


def test_products_left_out_by_shape_are_predicted(fitted: GemmModel) -> None:
    new = [shape for shape in grid(180)[120:] if shape.k > 64]
    for format in ("int8", "bf16"):
        told = fitted.predict_all([Task(format, 2, shape) for shape in new])
        seconds = np.array([law(Task(format, 2, shape)) for shape in new])
        off = np.abs(np.array([each.seconds for each in told]) / seconds - 1)
        assert np.median(off) < 0.06
        inside = [each.low_s <= true <= each.high_s for each, true in zip(told, seconds, strict=True)]
        assert np.mean(inside) > 0.7
        assert all(each.low_s <= each.seconds <= each.high_s for each in told)
        assert all(
            each.roof_s == ROOFS[2].seconds(format, shape) for each, shape in zip(told, new, strict=True)
        )


def test_a_predictor_survives_its_file(fitted: GemmModel) -> None:
    text = json.dumps(fitted.to_json(), allow_nan=False)
    again = GemmModel.from_json(json.loads(text))
    for shape in (Shape(1, 100, 100), Shape(300, 2000, 500, True), Shape(4096, 40000, 40000)):
        one, other = fitted.predict("int8", shape, 2), again.predict("int8", shape, 2)
        assert one.seconds == pytest.approx(other.seconds, rel=1e-4)
        assert one.measured_around == other.measured_around
    for wrong in ({}, {"kernels": 3}, json.loads(text) | {"middle": {}}, json.loads(text) | {"ranges": [1]}):
        with pytest.raises(Unsupported, match="predictor"):
            GemmModel.from_json(wrong)


def test_the_roofline_carries_what_lies_outside(fitted: GemmModel) -> None:
    sizes = [Shape(512, side, side) for side in (20_000, 40_000, 80_000)]
    told = [fitted.predict("int8", shape, 2) for shape in sizes]
    assert not any(each.measured_around for each in told)
    for each, shape in zip(told, sizes, strict=True):
        assert each.seconds == pytest.approx(law(Task("int8", 2, shape)), rel=0.25)
    assert told[1].seconds / told[0].seconds == pytest.approx(4, rel=0.2), "a tree would answer the same"
    inside = fitted.predict("int8", Shape(100, 1000, 1000), 2)
    assert inside.measured_around
    assert told[2].high_s / told[2].low_s > inside.high_s / inside.low_s


def test_what_was_not_measured_is_said(fitted: GemmModel) -> None:
    for format, threads in (("q8", 2), ("int8", 1)):
        with pytest.raises(NotMeasured, match="int8 on 2"):
            fitted.predict(format, Shape(1, 1, 1), threads)
    with pytest.raises(NotMeasured, match="too few"):
        model.fit(rows_by(shapes=grid(5)), KERNELS, ROOFS)


def test_a_format_of_as_many_bits_stands_in() -> None:
    told = model.fit(rows_by(shapes=grid(30), formats=["q4+min"]), KERNELS, ROOFS)
    assert told.nearest_format("q4+min", 2) == "q4+min"
    assert told.nearest_format("q4/16", 2) == "q4+min"
    for format, threads in (("q8", 2), ("q4", 1)):
        with pytest.raises(NotMeasured):
            told.nearest_format(format, threads)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_no_shape_is_learned_from_and_tested(seed: int) -> None:
    rows = rows_by(shapes=grid(40), ways=3)
    tested: list[int] = []
    for train, test in model.folds(rows, seed=seed):
        assert not {rows[i].shape[:3] for i in train} & {rows[i].shape[:3] for i in test}
        assert len(train) + len(test) == len(rows)
        tested += test.tolist()
    assert sorted(tested) == list(range(len(rows)))


def test_validation_tells_the_predictor_from_the_roofline() -> None:
    rows = rows_by(ways=4, shapes=grid(60), formats=["int8"], noise=NOISE)
    told = validate.left_out(rows, KERNELS, ROOFS)
    lines = validate.accuracy(told, KERNELS)
    by = {(line["format"], line["predictor"]): line for line in lines}
    assert set(by) == {("int8", name) for name in ("residual trees", "roofline", "paper's recipe")}
    ours = by["int8", "residual trees"]
    assert ours["median_error"] < by["int8", "roofline"]["median_error"]
    assert ours["median_error"] < by["int8", "paper's recipe"]["median_error"]
    assert 0.6 < ours["in_band"] < 0.97
    leak = {(line["format"], line["split"]): line["median_error"] for line in validate.leakage(rows, KERNELS)}
    assert leak["int8", "shapes"] > leak["int8", "rows"], "twins of a product give its time away"


def test_the_better_blocking_is_chosen() -> None:
    rows = rows_by(ways=12, shapes=[shape for shape in grid(40) if shape.m > 12], formats=["int8"])
    found = validate.choices(validate.left_out(rows, KERNELS, ROOFS, bands=False))
    assert found
    lines = [made.line(made.seconds) for made in found]
    assert validate.mean_of(lines, "over_best") < 1.03
    assert validate.mean_of(lines, "over_default") < 0.97
    assert validate.mean_of(lines, "over_naive") < 0.6
    for made in found:
        assert {made.chosen, DEFAULT, NAIVE} <= set(made.finalists(3)) <= set(made.seconds)


def test_extrapolation_is_flat_for_a_forest_and_not_here() -> None:
    wide = [Shape(m, side, side) for m in (1, 16, 128) for side in (4096, 8192)]
    small = [shape for shape in grid(160) if max(shape[:3]) <= 2048]
    (line,) = validate.extrapolation(rows_by(shapes=[*small, *wide], formats=["int8"]), KERNELS, ROOFS)
    assert line["median_error"] < 0.2 < line["forest_median_error"]
    assert line["forest_largest_over_learned"] <= 1 < line["largest_over_learned"]


def test_picks_are_a_table_that_layers_are_chosen_from(
    fitted: GemmModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.kernels.chooser import KernelChooser

    monkeypatch.setattr(choice, "SIZES", (512, 4096))
    table = choice.table(fitted, _native.ROW_CLASSES, "avx512")
    chooser = KernelChooser(table["threads"]["2"])
    chooser.check()
    layer = type("Layer", (), {"format": "int8", "rows": 4000, "inputs": 600, "gated": False})
    many = chooser.pick(layer)[-1]
    kernel = KERNELS["int8"]
    # The law wants as many sums at once as fit.
    assert kernel.rows_of(Blocking(many.rows), choice.MANY) * max(1, many.tiles) >= 16
