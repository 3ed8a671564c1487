"""Charts drawn with characters: lines over logarithmic axes, and bars. Knows numbers, not what they mean."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from trimtab.machine.figures import Curve

MARKS = "●○▲△■□"
PLAIN = "*o^v#+"
Words = Callable[[float], str]


def chart(
    curves: Sequence[Curve], x_words: Words, y_words: Words, *, width: int = 72, height: int = 12,
    plain: bool = False,
) -> list[str]:  # fmt: skip
    """Curves over logarithmic axes, a mark for each, joined by dots.

    Parameters
    ----------
    x_words, y_words : a value as the axis shows it
    plain : ASCII only

    Returns
    -------
    lines of text, the last one the legend; none without points
    """
    points = [point for curve in curves for point in curve.points if min(point) > 0]
    if not points:
        return []
    marks = PLAIN if plain else MARKS
    x_low, x_high = _ends([x for x, _ in points])
    y_low, y_high = _ends([y for _, y in points])
    gutter = max(len(y_words(math.exp(_at(y_low, y_high, share)))) for share in (0, 0.5, 1)) + 1
    wide = max(16, width - gutter - 1)
    grid = [[" "] * wide for _ in range(height)]

    def place(x: float, y: float) -> tuple[int, int]:
        column = round((math.log(x) - x_low) / (x_high - x_low) * (wide - 1))
        return column, round((1 - (math.log(y) - y_low) / (y_high - y_low)) * (height - 1))

    for number, curve in enumerate(curves):
        placed = [place(x, y) for x, y in curve.points if min(x, y) > 0]
        for (x0, y0), (x1, y1) in itertools.pairwise(placed):
            for column in range(x0 + 1, x1):
                row = round(y0 + (y1 - y0) * (column - x0) / (x1 - x0))
                if grid[row][column] == " ":
                    grid[row][column] = "." if plain else "·"
        for column, row in placed:
            grid[row][column] = marks[number % len(marks)]
    lines = []
    for row, cells in enumerate(grid):
        share = 1 - row / (height - 1)
        label = y_words(math.exp(_at(y_low, y_high, share))) if row % max(1, (height - 1) // 3) == 0 else ""
        lines.append(f"{label:>{gutter}}{'|' if plain else '│'}{''.join(cells)}".rstrip())
    lines.append(" " * gutter + ("+" + "-" * wide if plain else "└" + "─" * wide))
    lines.append(_ruler(x_low, x_high, wide, gutter + 1, x_words))
    if len(curves) > 1:
        named = (f"{marks[i % len(marks)]} {curve.name}" for i, curve in enumerate(curves))
        lines.append(" " * (gutter + 1) + "   ".join(named))
    return lines


def bars(
    rows: Sequence[tuple[str, float]], words: Words, *, width: int = 72, plain: bool = False
) -> list[str]:
    """One bar a row on a logarithmic axis that begins a little below the smallest value."""
    rows = [row for row in rows if row[1] > 0]
    if not rows:
        return []
    low = math.log(min(value for _, value in rows)) - math.log(3)
    high = math.log(max(value for _, value in rows))
    names, values = max(len(name) for name, _ in rows), max(len(words(value)) for _, value in rows)
    room = max(8, width - names - values - 2)
    lines = []
    for name, value in rows:
        length = max(1, round((math.log(value) - low) / (high - low or 1) * room))
        lines.append(f"{name:<{names}} {('=' if plain else '━') * length:<{room}} {words(value):>{values}}")
    return lines


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Logarithms of the axis's ends, apart even where all values are the same."""
    low, high = math.log(min(values)), math.log(max(values))
    return (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)


def _at(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _ruler(low: float, high: float, wide: int, gutter: int, words: Words) -> str:
    """The x axis's labels, as many as fit with room between them."""
    line = [" "] * (gutter + wide + 12)
    free = 0
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        text = words(math.exp(_at(low, high, share)))
        start = max(0, min(gutter + round(share * (wide - 1)) - len(text) // 2, gutter + wide - len(text)))
        if start >= free:
            line[start : start + len(text)] = text
            free = start + len(text) + 2
    return "".join(line).rstrip()
