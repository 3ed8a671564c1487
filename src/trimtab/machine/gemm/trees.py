"""Decision trees as plain arrays, evaluated with numpy alone.

scikit-learn grows the trees; what it grew is taken out of it once and kept as numbers, so that a prediction
needs neither it nor a pickle. Knows no features and no units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Trees:
    """A sum of regression trees.

    Nodes of all trees lie in one row. At an inner node a sample goes to `left` when its feature is at most
    `threshold`, otherwise to `right`; a leaf has itself as both, so that every walk may take `depth` steps.

    Parameters
    ----------
    roots : (trees,) node at which each tree begins
    feature, threshold, left, right, value : (nodes,)
    depth : most steps from a root to a leaf
    base : added to the sum
    scale : factor of the sum: 1 for boosted trees, 1 / trees for a forest
    single : features are rounded to single precision first, as scikit-learn's forests do
    """

    roots: Ints
    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats
    depth: int
    base: float
    scale: float
    single: bool = False

    def predict(self, x: Floats) -> Floats:
        """Values of samples (rows, features) -> (rows,)."""
        x = np.asarray(x, np.float32 if self.single else np.float64).astype(np.float64)
        out = np.empty(len(x))
        step = max(1, 4_000_000 // max(1, len(self.roots)))  # rows at once: 32 MB of places
        for start in range(0, len(x), step):
            part = x[start : start + step]
            at = np.broadcast_to(self.roots, (len(part), len(self.roots)))  # (rows, trees)
            row = np.arange(len(part))[:, None]
            for _ in range(self.depth):
                low = part[row, self.feature[at]] <= self.threshold[at]
                at = np.where(low, self.left[at], self.right[at])
            out[start : start + step] = self.base + self.scale * self.value[at].sum(axis=1)
        return out

    def to_json(self) -> dict[str, Any]:
        """Numbers as text, an array a line: a profile is read as a whole, and lists take longer."""
        arrays = {name: _text(getattr(self, name)) for name in _INTS}
        arrays |= {name: _text(getattr(self, name)) for name in _FLOATS}
        return arrays | {"depth": self.depth, "base": self.base, "scale": self.scale, "single": self.single}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trees:
        """What `to_json` wrote.

        Raises
        ------
        ValueError, KeyError, TypeError : it is something else
        """
        trees = cls(
            **{name: _numbers(data[name], np.int32) for name in _INTS},
            **{name: _numbers(data[name], np.float64) for name in _FLOATS},
            depth=int(data["depth"]), base=float(data["base"]), scale=float(data["scale"]),
            single=bool(data["single"]),
        )  # fmt: skip
        nodes = len(trees.value)
        if (
            len({len(getattr(trees, name)) for name in (*_INTS[1:], *_FLOATS)}) != 1
            or not 0 <= trees.depth < 64
        ):
            raise ValueError("arrays of trees differ in length")
        for name in ("roots", "left", "right"):
            places = getattr(trees, name)
            if len(places) and not (places.min() >= 0 and places.max() < nodes):
                raise ValueError("a tree leads outside its nodes")
        if nodes and trees.feature.min() < 0:
            raise ValueError("a tree asks for a feature that is none")
        return trees


_INTS = ("roots", "feature", "left", "right")
_FLOATS = ("threshold", "value")


def from_boosted(model: Any) -> Trees:
    """The trees of a fitted `HistGradientBoostingRegressor`."""
    parts = [_boosted_tree(stage[0].nodes) for stage in model._predictors]
    return _joined(parts, base=float(np.ravel(model._baseline_prediction)[0]), scale=1.0)


def from_forest(model: Any) -> Trees:
    """The trees of a fitted `RandomForestRegressor`."""
    parts = [_sklearn_tree(estimator.tree_) for estimator in model.estimators_]
    return _joined(parts, base=0.0, scale=1.0 / len(parts), single=True)


_Part = tuple[Ints, Floats, Ints, Ints, Floats]


def _boosted_tree(nodes: Any) -> _Part:
    here = np.arange(len(nodes), dtype=np.int32)
    leaf = nodes["is_leaf"].astype(bool)
    left = np.where(leaf, here, nodes["left"]).astype(np.int32)
    right = np.where(leaf, here, nodes["right"]).astype(np.int32)
    feature = np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32)
    threshold = np.where(leaf, 0.0, nodes["num_threshold"]).astype(np.float64)
    return feature, threshold, left, right, nodes["value"].astype(np.float64)


def _sklearn_tree(tree: Any) -> _Part:
    here = np.arange(tree.node_count, dtype=np.int32)
    leaf = tree.children_left < 0
    left = np.where(leaf, here, tree.children_left).astype(np.int32)
    right = np.where(leaf, here, tree.children_right).astype(np.int32)
    feature = np.where(leaf, 0, tree.feature).astype(np.int32)
    # Their forests compare in single precision; the threshold is a double between two such numbers.
    return feature, np.where(leaf, 0.0, tree.threshold), left, right, tree.value[:, 0, 0].astype(np.float64)


def _joined(parts: list[_Part], base: float, scale: float, single: bool = False) -> Trees:
    starts = np.cumsum([0, *(len(part[0]) for part in parts)]).astype(np.int32)
    moved = [(f, t, le + at, r + at, v) for (f, t, le, r, v), at in zip(parts, starts[:-1], strict=True)]
    feature, threshold, left, right, value = (np.concatenate(each) for each in zip(*moved, strict=True))
    depth = max(_depth(part[2], part[3]) for part in parts)
    return Trees(starts[:-1], feature, threshold, left, right, value, depth, base, scale, single)


def _depth(left: Ints, right: Ints) -> int:
    depth, level = 0, [0]
    while level := [int(child[at]) for at in level if left[at] != at for child in (left, right)]:
        depth += 1
    return depth


def _text(numbers: npt.NDArray[Any]) -> str:
    return " ".join(map(repr, numbers.tolist()))


def _numbers(text: str, kind: Any) -> Any:
    return np.array(text.split(), dtype=np.float64).astype(kind)
