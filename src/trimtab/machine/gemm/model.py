"""The predictor: by what factor a product misses its roofline, learned from measured ones.

Boosted trees learn the logarithm of time over roofline; two more sets of trees learn where the middle 80 % of
it lie. Where a product is larger or smaller than all measured ones, trees would answer with a constant; here
the roofline carries on, times the factor of the nearest measured product. Fitting needs scikit-learn, and
predicting numpy alone.

References: measured configurations and a learned residual after arXiv 2411.16954; quantiles widened until
they hold on data that was left out, after conformalized quantile regression (arXiv 1905.03222).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.errors import NotMeasured, Unsupported
from trimtab.machine.gemm.blocking import DEFAULT, Blocking, Kernel
from trimtab.machine.gemm.collect import Row, Task
from trimtab.machine.gemm.features import features, matrix
from trimtab.machine.gemm.roof import Roof, base_of
from trimtab.machine.gemm.shapes import Shape
from trimtab.machine.gemm.trees import Trees, from_boosted

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

LOW, HIGH = 0.1, 0.9
TREES = 400
FOLDS = 5
SEED = 7


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of a product.

    Parameters
    ----------
    low_s, high_s : the middle 80 %, as left-out products had it
    roof_s, limit : the least time this machine allows, and what sets it
    measured_around : false where nothing of this size was measured, and the roofline carries the prediction
    """

    seconds: float
    low_s: float
    high_s: float
    roof_s: float
    limit: str
    measured_around: bool


@dataclass(frozen=True, slots=True)
class Range:
    """The measured products of one format and thread count: logarithms of m, n, k, and residuals."""

    points: Floats  # (products, 3)
    residuals: Floats  # (products,)

    def holds(self, shape: Shape) -> bool:
        """Whether every side lies within what was measured."""
        at = _logs(shape)
        slack = 1e-9
        return bool((at >= self.points.min(0) - slack).all() and (at <= self.points.max(0) + slack).all())

    def nearest(self, shape: Shape) -> float:
        """Mean residual of the products closest in logarithms, twice as far ones left out."""
        distance = np.sqrt(((self.points - _logs(shape)) ** 2).sum(1))
        close = np.argsort(distance, kind="stable")[:3]
        close = close[distance[close] <= 2 * max(distance[close[0]], 0.5)]
        return float(self.residuals[close].mean())


@dataclass(frozen=True, eq=False)
class GemmModel:
    """A fitted predictor; made by `fit`, kept as JSON."""

    kernels: Mapping[str, Kernel]
    roofs: Mapping[int, Roof]
    middle: Trees
    low: Trees
    high: Trees
    widen: float
    ranges: Mapping[tuple[str, int], Range]
    _cache: dict[Task, Prediction] = field(default_factory=dict)

    def predict(self, format: str, shape: Shape, threads: int, blocking: Blocking = DEFAULT) -> Prediction:
        """Time of one product.

        Raises
        ------
        NotMeasured : nothing of this format and number of threads was measured
        """
        task = Task(format, threads, shape, blocking)
        if task not in self._cache:
            (self._cache[task],) = self.predict_all([task])
        return self._cache[task]

    def predict_all(self, tasks: Sequence[Task]) -> list[Prediction]:
        """Times of many products at once."""
        if not tasks:
            return []
        x = matrix([self._features(task) for task in tasks])
        middle, low, high = (trees.predict(x) for trees in (self.middle, self.low, self.high))
        return [self._prediction(*each) for each in zip(tasks, middle, low, high, strict=True)]

    def nearest_format(self, format: str, threads: int) -> str:
        """The format itself, or a measured one of as many bits: groups and minima change the time by little.

        Raises
        ------
        NotMeasured : no format of so many bits was measured with this number of threads
        """
        known = [name for name, count in self.ranges if count == threads]
        for name in (format, *sorted(known)):
            if name in known and base_of(name) == base_of(format):
                return name
        self._kernel(Task(format, threads, Shape(1, 1, 1)))
        raise AssertionError("unreachable")

    def seconds(self, tasks: Sequence[Task]) -> Floats:
        """Only the times: what comparing blockings needs. All must lie within what was measured."""
        roofs = np.array([self._roof(task).seconds(task.format, task.shape) for task in tasks])
        return roofs * np.exp(self.middle.predict(matrix([self._features(task) for task in tasks])))

    def _features(self, task: Task) -> Floats:
        return features(self._kernel(task), task.shape, task.blocking, self._roof(task))

    def _kernel(self, task: Task) -> Kernel:
        if (task.format, task.threads) not in self.ranges:
            known = sorted({f"{format} on {threads}" for format, threads in self.ranges})
            raise NotMeasured(
                f"no products of {task.format} on {task.threads} threads were measured; "
                f"known: {', '.join(known)}",
                f"measure them: `trimtab measure gemm --format {task.format} --threads {task.threads}`",
            )
        return self.kernels[task.format]

    def _roof(self, task: Task) -> Roof:
        return self.roofs[task.threads]

    def _prediction(self, task: Task, middle: float, low: float, high: float) -> Prediction:
        known, roof = self.ranges[task.format, task.threads], self._roof(task)
        least = roof.seconds(task.format, task.shape)
        around = known.holds(task.shape)
        if not around:
            # The band keeps its width, and grows with the distance from what was measured.
            far = float(np.sqrt(((known.points - _logs(task.shape)) ** 2).sum(1)).min())
            nearest = known.nearest(task.shape)
            low, high = low + nearest - middle - 0.05 * far, high + nearest - middle + 0.05 * far
            middle = nearest
        low, high = min(low - self.widen, middle), max(high + self.widen, middle)
        return Prediction(
            least * math.exp(middle), least * math.exp(low), least * math.exp(high), least,
            roof.limit(task.format, task.shape), around,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return {
            "kernels": {name: _kernel_json(kernel) for name, kernel in self.kernels.items()},
            "roofs": [roof.to_json() for roof in self.roofs.values()],
            "middle": self.middle.to_json(), "low": self.low.to_json(), "high": self.high.to_json(),
            "widen": self.widen,
            "ranges": [
                {
                    "format": format, "threads": threads,
                    "points": " ".join(f"{value:.6g}" for value in known.points.ravel()),
                    "residuals": " ".join(f"{value:.5g}" for value in known.residuals),
                }
                for (format, threads), known in self.ranges.items()
            ],
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GemmModel:
        """What `to_json` wrote.

        Raises
        ------
        Unsupported : it is something else, such as another version's
        """
        try:
            kernels = {str(name): Kernel(**each) for name, each in data["kernels"].items()}
            roofs = {roof.threads: roof for roof in map(Roof.from_json, data["roofs"])}
            ranges = {
                (str(each["format"]), int(each["threads"])): Range(
                    np.array(each["points"].split(), np.float64).reshape(-1, 3),
                    np.array(each["residuals"].split(), np.float64),
                )
                for each in data["ranges"]
            }
            middle, low, high = (Trees.from_json(data[name]) for name in ("middle", "low", "high"))
            return cls(kernels, roofs, middle, low, high, float(data["widen"]), ranges)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unsupported(
                f"the profile's predictor cannot be read: {error}", "fit it anew: `trimtab measure gemm`"
            ) from None


def fit(rows: Sequence[Row], kernels: Mapping[str, Kernel], roofs: Mapping[int, Roof]) -> GemmModel:
    """Learn from measured products.

    Raises
    ------
    NotMeasured : too few of them
    Unsupported : scikit-learn is not installed
    """
    rows = [row for row in rows if row.library == "trimtab"]
    if len({row.shape for row in rows}) < 4 * FOLDS:
        raise NotMeasured(
            f"{len(rows)} measured products are too few to learn from",
            "give `trimtab measure gemm` more time",
        )
    x, y = table(rows, kernels, roofs)
    low, high = (_quantile(x, y, share) for share in (LOW, HIGH))
    outside = np.empty(len(rows))
    for train, test in folds(rows):
        below, above = (_quantile(x[train], y[train], share).predict(x[test]) for share in (LOW, HIGH))
        outside[test] = np.maximum(below - y[test], y[test] - above)
    widen = float(np.quantile(outside, HIGH - LOW))
    return GemmModel(
        kernels,
        roofs,
        from_boosted(boosted(x, y)),
        from_boosted(low),
        from_boosted(high),
        widen,
        _ranges(rows, y),
    )


def left_out_band(x: Floats, y: Floats, rows: Sequence[Row]) -> tuple[Floats, Floats]:
    """Ends of the middle 80 % of every row, by trees that did not see its shape; (rows,) each.

    What widens them for a fold was learned from the other folds.
    """
    ends = np.empty((2, len(rows)))
    fold_of = np.empty(len(rows), int)
    for number, (train, test) in enumerate(folds(rows)):
        fold_of[test] = number
        for place, share in enumerate((LOW, HIGH)):
            ends[place, test] = _quantile(x[train], y[train], share).predict(x[test])
    outside = np.maximum(ends[0] - y, y - ends[1])
    for number in range(FOLDS):
        widen = np.quantile(outside[fold_of != number], HIGH - LOW)
        ends[:, fold_of == number] += [[-widen], [widen]]
    return ends[0], ends[1]


def table(
    rows: Sequence[Row], kernels: Mapping[str, Kernel], roofs: Mapping[int, Roof]
) -> tuple[Floats, Floats]:
    """Features (rows, features) and the logarithms of time over roofline (rows,)."""
    x = matrix([features(kernels[row.format], row.shape, row.blocking, roofs[row.threads]) for row in rows])
    least = np.array([roofs[row.threads].seconds(row.format, row.shape) for row in rows])
    return x, np.log(np.array([row.median_s for row in rows]) / least)


def folds(rows: Sequence[Row], count: int = FOLDS, seed: int = SEED) -> Iterator[tuple[Indices, Indices]]:
    """(train, test) row numbers; no (m, n, k) is in both."""
    sizes = sorted({row.shape[:3] for row in rows})
    order = np.random.default_rng(seed).permutation(len(sizes))
    fold_of = {sizes[place]: number % count for number, place in enumerate(order)}
    which = np.array([fold_of[row.shape[:3]] for row in rows])
    for fold in range(count):
        yield np.flatnonzero(which != fold), np.flatnonzero(which == fold)


def boosted(x: Floats, y: Floats) -> Any:
    """The trees of the middle, as scikit-learn has them; without a forecast of spread."""
    return _fitted(x, y, loss="absolute_error", max_iter=TREES, max_leaf_nodes=24)


def _quantile(x: Floats, y: Floats, share: float) -> Any:
    return _fitted(x, y, loss="quantile", quantile=share, max_iter=80, max_leaf_nodes=12)


def require_learner() -> None:
    """Refuse before anything is timed for nothing: Unsupported without scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        raise Unsupported(
            "fitting the predictor needs scikit-learn", "install it: `pip install trimtab[predict]`"
        )


def _fitted(x: Floats, y: Floats, **how: Any) -> Any:
    require_learner()
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    settings = {"learning_rate": 0.06, "min_samples_leaf": 8, "l2_regularization": 0.1, "random_state": SEED}
    # A few thousand rows are less work than threads cost that wait for each other at every node.
    with threadpool_limits(1, "openmp"):
        return HistGradientBoostingRegressor(**settings | how).fit(x, y)


def _ranges(rows: Sequence[Row], y: Floats) -> dict[tuple[str, int], Range]:
    """Default blocking alone: what a chosen one gains is the trees' to say."""
    found: dict[tuple[str, int], list[int]] = {}
    for index, row in enumerate(rows):
        if row.blocking == DEFAULT:
            found.setdefault((row.format, row.threads), []).append(index)
    return {
        key: Range(np.array([_logs(rows[i].shape) for i in chosen]), y[chosen])
        for key, chosen in found.items()
    }


def _logs(shape: Shape) -> Floats:
    return np.log2(np.array(shape[:3], np.float64))


def _kernel_json(kernel: Kernel) -> dict[str, Any]:
    return {name: getattr(kernel, name) for name in ("format", "form", "max_rows", "many_rows", "sums")}
