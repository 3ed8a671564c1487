"""Trees as arrays: what scikit-learn predicts, what a walk by hand finds, and files that hold no trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from trimtab.machine.gemm.trees import Trees, from_boosted, from_forest

DATA = np.random.default_rng(3)
X = np.round(DATA.normal(size=(300, 5)), 2)  # rounded: samples fall on thresholds
Y = np.sin(3 * X[:, 0]) + X[:, 1] * (X[:, 2] > 0) + 0.1 * DATA.normal(size=300)
NEW = np.concatenate([X, DATA.normal(0, 2, (300, 5))])


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "quantile"])
def test_boosted_trees_predict_as_scikit_learn(loss: str) -> None:
    more: dict[str, Any] = {"quantile": 0.1} if loss == "quantile" else {}
    model = HistGradientBoostingRegressor(loss=loss, max_iter=40, random_state=1, **more).fit(X, Y)
    trees = from_boosted(model)
    np.testing.assert_allclose(trees.predict(NEW), model.predict(NEW), rtol=1e-12, atol=1e-12)
    again = Trees.from_json(trees.to_json())
    assert np.array_equal(again.predict(NEW), trees.predict(NEW))


def test_forests_predict_as_scikit_learn() -> None:
    model = RandomForestRegressor(20, max_depth=6, random_state=1).fit(X, Y)
    trees = from_forest(model)
    np.testing.assert_allclose(trees.predict(NEW), model.predict(NEW), rtol=1e-12, atol=1e-12)
    assert np.array_equal(Trees.from_json(trees.to_json()).predict(NEW), trees.predict(NEW))


@st.composite
def tree(draw: Any) -> tuple[Trees, int]:
    """A few random trees, grown by splitting leaves, and their number of features."""
    features = draw(st.integers(1, 4))
    roots, feature, threshold, left, right, value = [], [], [], [], [], []

    def leaf() -> int:
        here = len(value)
        for column, each in ((feature, 0), (threshold, 0.0), (left, here), (right, here)):
            column.append(each)
        value.append(draw(st.floats(-100, 100)))
        return here

    for _ in range(draw(st.integers(1, 4))):
        root = leaf()
        roots.append(root)
        leaves = [root]
        for _ in range(draw(st.integers(0, 6))):
            at = leaves.pop(draw(st.integers(0, len(leaves) - 1)))
            feature[at] = draw(st.integers(0, features - 1))
            threshold[at] = draw(st.floats(-5, 5))
            left[at], right[at] = leaf(), leaf()
            leaves += [left[at], right[at]]
    depth = 7  # more steps than any walk takes: a leaf stays where it is
    arrays = [np.array(each, np.int32) for each in (roots, feature)]
    return Trees(
        *arrays, np.array(threshold), np.array(left, np.int32), np.array(right, np.int32), np.array(value),
        depth,        draw(st.floats(-10, 10)), draw(st.floats(0.1, 2)),
    ), features  # fmt: skip


@settings(deadline=None)
@given(made=tree(), seed=st.integers(0, 1000))
def test_a_walk_by_hand_finds_the_same(made: tuple[Trees, int], seed: int) -> None:
    trees, features = made
    x = np.random.default_rng(seed).normal(0, 3, (7, features))
    expected = []
    for sample in x:
        total = 0.0
        for root in trees.roots:
            at = int(root)
            while trees.left[at] != at:
                at = int(
                    (trees.left if sample[trees.feature[at]] <= trees.threshold[at] else trees.right)[at]
                )
            total += trees.value[at]
        expected.append(trees.base + trees.scale * total)
    np.testing.assert_allclose(trees.predict(x), expected, rtol=1e-12, atol=1e-9)
    assert np.array_equal(Trees.from_json(trees.to_json()).predict(x), trees.predict(x))
    assert trees.predict(np.empty((0, features))).shape == (0,)


def test_what_is_no_tree_is_refused() -> None:
    good = from_forest(RandomForestRegressor(2, max_depth=2, random_state=1).fit(X, Y)).to_json()
    Trees.from_json(good)
    nodes = len(good["value"].split())
    for change in (
        {"left": " ".join(["9999"] * nodes)}, {"right": " ".join(["-1"] * nodes)}, {"roots": str(nodes)},
        {"value": "1"}, {"threshold": "x"}, {"depth": 99}, {"base": None},
        {"feature": " ".join(["-2"] * nodes)},
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            Trees.from_json(good | change)
    with pytest.raises(KeyError):
        Trees.from_json({})
