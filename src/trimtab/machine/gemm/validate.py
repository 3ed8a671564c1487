"""How well products are predicted that were not learned from, and how well blockings are chosen for them.

Every figure comes from products left out by shape: no (m, n, k) is in training and test. Beside the
predictor stand the plain roofline, and the recipe of arXiv 2411.16954: nine features, 100 trees of depth six
on the time itself, clipped to its percentiles. How much its own split by rows flatters it is shown on data
like its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.machine.gemm import model as models
from trimtab.machine.gemm.blocking import DEFAULT, NAIVE, Blocking, Kernel
from trimtab.machine.gemm.choice import MARGIN
from trimtab.machine.gemm.collect import Row
from trimtab.machine.gemm.features import plain_features
from trimtab.machine.gemm.roof import Roof
from trimtab.machine.gemm.shapes import Shape

Floats = npt.NDArray[np.float64]

RECIPE_TREES, RECIPE_DEPTH, RECIPE_SEED = 100, 6, 42
FEWEST_WAYS = 5
LARGEST_LEARNED = 2048


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Measured and predicted seconds of every row, predicted by trees that did not see its shape."""

    rows: Sequence[Row]
    seconds: Floats
    predicted: Floats
    low: Floats
    high: Floats
    roof: Floats


def left_out(
    rows: Sequence[Row], kernels: Mapping[str, Kernel], roofs: Mapping[int, Roof], *, bands: bool = True
) -> LeftOut:
    """Predict every row by the others of other shapes."""
    x, y = models.table(rows, kernels, roofs)
    seconds = np.array([row.median_s for row in rows])
    roof = seconds / np.exp(y)
    found = np.zeros((3, len(rows)))
    for train, test in models.folds(rows):
        found[0, test] = models.boosted(x[train], y[train]).predict(x[test])
    if bands:
        found[1:] = models.left_out_band(x, y, rows)
    middle, low, high = roof * np.exp(found)
    return LeftOut(rows, seconds, middle, np.minimum(low, middle), np.maximum(high, middle), roof)


def accuracy(told: LeftOut, kernels: Mapping[str, Kernel]) -> list[dict[str, Any]]:
    """One line a format, thread count and way to predict, all on the same rows."""
    table = []
    for format, threads in sorted({(row.format, row.threads) for row in told.rows}):
        chosen = np.flatnonzero([row.format == format and row.threads == threads for row in told.rows])
        rows = [told.rows[place] for place in chosen.tolist()]
        if len({row.shape[:3] for row in rows}) < 2 * models.FOLDS:
            continue
        seconds = told.seconds[chosen]
        inside = (told.low[chosen] <= seconds) & (seconds <= told.high[chosen])
        ways = {
            "residual trees": told.predicted[chosen],
            "roofline": told.roof[chosen],
            "paper's recipe": recipe(rows, kernels[format], models.folds(rows)),
        }
        for name, predicted in ways.items():
            line = {"format": format, "threads": threads, "predictor": name} | errors(predicted, seconds)
            line["rows"] = len(rows)
            if name == "residual trees":
                line["in_band"] = float(inside.mean())
            table.append(line)
    return table


def leakage(rows: Sequence[Row], kernels: Mapping[str, Kernel]) -> list[dict[str, Any]]:
    """The paper's recipe on data like the paper's: few products, many ways to cut each.

    Split by rows, nearly every row has twins of its product among those that were learned from; split by
    products it has none.
    """
    table = []
    for format, threads in sorted({(row.format, row.threads) for row in rows}):
        ways: dict[Shape, list[Row]] = {}
        for row in rows:
            if (row.format, row.threads) == (format, threads):
                ways.setdefault(row.shape, []).append(row)
        mine = [row for each in ways.values() if len(each) >= FEWEST_WAYS for row in each]
        if len({row.shape[:3] for row in mine}) < models.FOLDS:
            continue
        seconds = np.array([row.median_s for row in mine])
        for name, split in (("rows", _rows_split(len(mine))), ("shapes", models.folds(mine))):
            line = {"format": format, "threads": threads, "split": name, "rows": len(mine)}
            table.append(line | errors(recipe(mine, kernels[format], split), seconds))
    return table


def errors(predicted: Floats, seconds: Floats) -> dict[str, float]:
    """Relative errors, and R2 of the logarithms: that of the times hears only the largest of them."""
    off = np.abs(predicted / seconds - 1)
    logs, guessed = np.log(seconds), np.log(np.maximum(predicted, 1e-12))
    spread = float(((logs - logs.mean()) ** 2).sum())
    plain = float(((seconds - seconds.mean()) ** 2).sum())
    return {
        "median_error": float(np.median(off)), "mean_error": float(off.mean()),
        "r2_log": 1 - float(((logs - guessed) ** 2).sum()) / spread if spread else 0.0,
        "r2": 1 - float(((seconds - predicted) ** 2).sum()) / plain if plain else 0.0,
    }  # fmt: skip


def recipe(
    rows: Sequence[Row], kernel: Kernel, splits: Iterator[tuple[models.Indices, models.Indices]]
) -> Floats:
    """Seconds by a forest on plain features, each row by trees of the split that left it out."""
    x = np.array([plain_features(kernel, row.shape, row.blocking) for row in rows])
    y = np.array([row.median_s for row in rows])
    y = np.clip(y, *np.percentile(y, [1, 99]))
    out = np.zeros(len(rows))
    for train, test in splits:
        out[test] = plain_forest(x[train], y[train]).predict(x[test])
    return out


def plain_forest(x: Floats, y: Floats) -> Any:
    """100 trees of depth six, as published."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(RECIPE_TREES, max_depth=RECIPE_DEPTH, random_state=RECIPE_SEED)
    return forest.fit(x, y)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for a product by trees that did not see its shape, and what was measured of it."""

    format: str
    threads: int
    shape: Shape
    chosen: Blocking
    seconds: Mapping[Blocking, float]

    def line(self, seconds: Mapping[Blocking, float]) -> dict[str, Any]:
        """The chosen blocking's time against others', by the given times."""
        tried = {way: value for way, value in seconds.items() if way != NAIVE}
        mine = seconds[self.chosen]
        line = {
            "format": self.format, "threads": self.threads, "shape": self.shape.name,
            "ways": len(self.seconds), "chosen": list(self.chosen), "over_best": mine / min(tried.values()),
            "over_default": mine / seconds[DEFAULT],
        }  # fmt: skip
        return line | ({"over_naive": mine / seconds[NAIVE]} if NAIVE in seconds else {})

    def finalists(self, most: int) -> list[Blocking]:
        """The chosen one, the default, the naive one, and the fastest others as they were first measured."""
        others = sorted((way for way in self.seconds if way != NAIVE), key=self.seconds.__getitem__)[:most]
        return list(
            dict.fromkeys([self.chosen, DEFAULT, *others, *([NAIVE] if NAIVE in self.seconds else [])])
        )


def choices(told: LeftOut) -> list[Choice]:
    """One for every product that enough blockings were timed for."""
    found: dict[tuple[str, int, Shape], dict[Blocking, tuple[float, float]]] = {}
    for row, seconds, predicted in zip(
        told.rows, told.seconds.tolist(), told.predicted.tolist(), strict=True
    ):
        found.setdefault((row.format, row.threads, row.shape), {})[row.blocking] = (seconds, predicted)
    table = []
    for (format, threads, shape), ways in sorted(found.items()):
        tried = [way for way in ways if way != NAIVE]
        if DEFAULT not in tried or len(tried) < FEWEST_WAYS:
            continue
        chosen = min(tried, key=lambda way: ways[way][1])
        if ways[chosen][1] > (1 - MARGIN) * ways[DEFAULT][1]:
            chosen = DEFAULT
        measured = {way: seconds for way, (seconds, _) in ways.items()}
        table.append(Choice(format, threads, shape, chosen, measured))
    return table


def selection(told: LeftOut) -> list[dict[str, Any]]:
    """A line a product. The best of many noisy times is too good: timing the finalists again is fairer."""
    return [choice.line(choice.seconds) for choice in choices(told)]


def mean_of(table: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Geometric mean of a column, over the lines that have it."""
    values = [line[key] for line in table if key in line]
    return float(np.exp(np.mean(np.log(values)))) if values else None


def extrapolation(
    rows: Sequence[Row], kernels: Mapping[str, Kernel], roofs: Mapping[int, Roof]
) -> list[dict[str, Any]]:
    """Learned from sides up to 2048 only, asked for longer ones: the predictor, and a forest on the time."""
    rows = [row for row in rows if row.library == "trimtab" and row.blocking == DEFAULT]
    small = [row for row in rows if max(row.shape[:3]) <= LARGEST_LEARNED]
    fitted = models.fit(small, kernels, roofs)
    table = []
    for format, threads in fitted.ranges:
        mine = [row for row in small if (row.format, row.threads) == (format, threads)]
        large = [
            row for row in rows
            if (row.format, row.threads) == (format, threads) and max(row.shape[:3]) >= 2 * LARGEST_LEARNED
        ]  # fmt: skip
        if not large:
            continue
        seconds = np.array([row.median_s for row in large])
        predictions = fitted.predict_all([row.task for row in large])
        forest = plain_forest(
            np.array([plain_features(kernels[format], row.shape, row.blocking) for row in mine]),
            np.array([row.median_s for row in mine]),
        )
        flat = forest.predict(
            np.array([plain_features(kernels[format], row.shape, row.blocking) for row in large])
        )
        most = max(row.median_s for row in mine)
        table.append({
            "format": format, "threads": threads, "learned": len(mine), "asked": len(large),
            "median_error": errors(np.array([p.seconds for p in predictions]), seconds)["median_error"],
            "forest_median_error": errors(flat, seconds)["median_error"],
            # A mean of leaves never exceeds what was learned from, however large the product.
            "forest_largest_over_learned": float(flat.max() / most),
            "largest_over_learned": float(seconds.max() / most),
        })  # fmt: skip
    return table


def _rows_split(count: int) -> Iterator[tuple[models.Indices, models.Indices]]:
    order = np.random.default_rng(RECIPE_SEED).permutation(count)
    for part in np.array_split(order, models.FOLDS):
        yield np.setdiff1d(order, part), np.sort(part)
