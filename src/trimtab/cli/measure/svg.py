"""Charts as SVG text: lines over logarithmic axes, a ladder of costs, a roofline. Colours come from the page.

Every word is escaped here, so a profile from elsewhere can say what it likes. Sizes are in the units of the
drawing; a page scales it as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from trimtab.machine.figures import Cost, Curve, Roofline, si, size

Words = Callable[[float], str]

WIDE, HIGH = 620, 320
LEFT, RIGHT, TOP, BOTTOM = 74, 96, 26, 40
LINE = 13  # least distance of two labels


class Axes:
    """Two logarithmic axes over a rectangle; both ends are moved out to whole ticks."""

    def __init__(
        self, xs: Sequence[float], ys: Sequence[float], *, x_base: float = 2.0, wide: int = WIDE,
        high: int = HIGH, right: int = RIGHT,
    ) -> None:  # fmt: skip
        self.x_base, self.wide, self.high, self.right = x_base, wide, high, wide - right
        self.x0 = math.floor(math.log(min(xs), x_base) + 1e-9)
        self.x1 = max(self.x0 + 1, math.ceil(math.log(max(xs), x_base) - 1e-9))
        low, high_y = math.log10(min(ys)), math.log10(max(ys))
        # To thirds of a decade, where 1, 2 and 5 lie: whole decades would leave half of it empty.
        self.y0, self.y1 = math.floor(low * 3 - 0.2) / 3, math.ceil(high_y * 3 + 0.2) / 3

    def x(self, value: float) -> float:
        share = (math.log(value, self.x_base) - self.x0) / (self.x1 - self.x0)
        return LEFT + share * (self.right - LEFT)

    def y(self, value: float) -> float:
        return TOP + (1 - (math.log10(value) - self.y0) / (self.y1 - self.y0)) * (self.high - TOP - BOTTOM)

    def grid(self, x_words: Words, y_words: Words, x_name: str, y_name: str) -> list[str]:
        bottom, parts = self.high - BOTTOM, []
        every = max(1, math.ceil((self.x1 - self.x0) / 7))
        for power in range(self.x0, self.x1 + 1, every):
            at = self.x(self.x_base**power)
            parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
            parts.append(_text(at, bottom + 15, x_words(self.x_base**power), "tick", "middle"))
        for value in self._y_ticks():
            at = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{self.right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(_text(LEFT - 7, at + 4, y_words(value), "tick", "end"))
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{self.right}" y1="{bottom}" y2="{bottom}"/>')
        parts.append(_text(self.right, self.high - 6, f"{x_name} →", "tick", "end"))
        parts.append(_text(LEFT, 14, f"{y_name} ↑", "tick"))
        return parts

    def _y_ticks(self) -> list[float]:
        steps = (1,) if self.y1 - self.y0 > 3 else (1, 2, 5)
        powers = range(math.floor(self.y0), math.ceil(self.y1) + 1)
        values = [step * 10.0**power for power in powers for step in steps]
        return [value for value in values if self.y0 - 1e-9 <= math.log10(value) <= self.y1 + 1e-9]


def lines(
    curves: Sequence[Curve], x_words: Words, y_words: Words, x_name: str, y_name: str, title: str,
    guides: Sequence[tuple[str, float]] = (),
) -> str:  # fmt: skip
    """Curves with their names at their ends; `guides` are upright lines with a word, caches for example."""
    curves = [Curve(c.name, [p for p in c.points if min(p) > 0]) for c in curves]
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return ""
    points = [point for curve in curves for point in curve.points]
    axes = Axes([x for x, _ in points], [y for _, y in points])
    parts = axes.grid(x_words, y_words, x_name, y_name)
    for word, value in guides:
        if axes.x0 < math.log(value, axes.x_base) < axes.x1:
            at = axes.x(value)
            parts.append(f'<line class="guide" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HIGH - BOTTOM}"/>')
            parts.append(_text(at - 4, TOP + 10, word, "guide-name", "end"))
    ends = []
    for number, curve in enumerate(curves):
        path = "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in curve.points)
        parts.append(f'<path class="line c{number % 6}" d="M{path}"/>')
        for x, y in curve.points:
            told = f"{curve.name}: {y_words(y)} at {x_words(x)}"
            parts.append(_dot(axes.x(x), axes.y(y), 3.5, f"dot c{number % 6}", told))
        ends.append((axes.y(curve.points[-1][1]), number, curve.name))
    if len(curves) > 1:
        at = -math.inf
        for y, number, name in sorted(ends):
            at = max(y + 4, at + LINE)
            parts.append(_text(axes.right + 9, at, name, f"name c{number % 6}"))
    return _svg(parts, HIGH, title)


def ladder(costs: Sequence[Cost], title: str) -> str:
    """Costs on one axis of decades, a row each."""
    costs = [cost for cost in costs if cost.seconds > 0]
    if not costs:
        return ""
    row, left, wide, top = 21, 190, 1260, 24
    right = wide - 80
    low = math.floor(math.log10(min(cost.seconds for cost in costs)) - 0.01)
    high = max(low + 1, math.ceil(math.log10(max(cost.seconds for cost in costs))))
    bottom = top + row * len(costs)

    def x(seconds: float) -> float:
        return left + (math.log10(seconds) - low) / (high - low) * (right - left)

    parts = []
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 4}" y2="{bottom}"/>')
        parts.append(_text(at, top - 9, si(10.0**power, "s"), "tick", "middle"))
    for number, cost in enumerate(costs):
        y = top + row * number + row / 2
        parts.append(_text(left - 10, y + 4, cost.name, "rung", "end"))
        end = x(cost.seconds)
        parts.append(f'<line class="rung {cost.kind}" x1="{left}" x2="{end:.1f}" y1="{y}" y2="{y}"/>')
        told = f"{cost.name}: {si(cost.seconds, 's')}"
        parts.append(_dot(end, y, 4.5, f"dot {cost.kind}", told))
        parts.append(_text(end + 10, y + 4, si(cost.seconds, "s"), "value"))
    return _svg(parts, bottom + 8, title, wide=wide)


def roofline(roof: Roofline, title: str) -> str:
    """The roof of each level under the highest peak, the other peaks, and the measured products."""
    if not roof.rates or not roof.peaks:
        return ""
    wide, high, right = 1260, 420, 150
    top, memory = roof.peaks[0][1], roof.rates[-1][1]
    furthest = max([256.0, top / memory * 4, *(mark.intensity for mark in roof.marks)])
    first, last = 0.25, 2.0 ** math.ceil(math.log2(furthest))
    lowest = min([memory * first * 2, *(mark.ops_per_s for mark in roof.marks)])
    axes = Axes([first, last], [lowest, top * 1.2], wide=wide, high=high, right=right)
    parts = axes.grid(_per_byte, lambda y: si(y, "op/s"), "operations for each byte", "operations a second")
    floor = 10.0**axes.y0
    for number, (level, rate) in enumerate(reversed(roof.rates)):
        start, ridge = max(first, floor / rate), top / rate
        if ridge <= first:
            continue
        path = f"M{axes.x(start):.1f} {axes.y(rate * start):.1f}L{axes.x(ridge):.1f} {axes.y(top):.1f}"
        if number == 0:
            path += f"L{axes.right} {axes.y(top):.1f}"
        parts.append(f'<path class="roof {"first" if number == 0 else ""}" d="{path}"/>')
        # The words lie along the slope, in its lower half, each level a little further up.
        at = start * (ridge / start) ** (0.18 + 0.1 * number)
        run, rise = axes.x(2 * at) - axes.x(at), axes.y(2 * rate * at) - axes.y(rate * at)
        degrees = math.degrees(math.atan2(rise, run))
        words = escape(f"{level} {si(rate, 'B/s')}")
        place = f"translate({axes.x(at):.1f} {axes.y(rate * at) - 6:.1f}) rotate({degrees:.1f})"
        parts.append(f'<text class="slope" transform="{place}">{words}</text>')
    for number, (unit, peak) in enumerate(roof.peaks):
        y = axes.y(peak)
        if number:
            start = axes.x(max(first, peak / roof.rates[0][1]))
            parts.append(f'<line class="peak" x1="{start:.1f}" x2="{axes.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(axes.right + 9, y + 4, f"{unit} {si(peak, 'op/s')}", "name"))
    units = list(dict.fromkeys(mark.unit for mark in roof.marks))
    for mark in roof.marks:
        told = f"{mark.name}: {si(mark.ops_per_s, 'op/s')}"
        kind = f"dot c{units.index(mark.unit) % 6}"
        parts.append(_dot(axes.x(mark.intensity), axes.y(mark.ops_per_s), 5, kind, told))
    for number, unit in enumerate(units):
        at = axes.right + 13
        parts.append(_dot(at, high - BOTTOM - 14 * (len(units) - number), 4, f"dot c{number % 6}", unit))
        parts.append(_text(at + 9, high - BOTTOM - 14 * (len(units) - number) + 4, f"{unit} product", "tick"))
    return _svg(parts, high, title, wide=wide)


def bytes_words(value: float) -> str:
    return size(value).replace(" ", " ")


def _per_byte(value: float) -> str:
    return f"1/{1 / value:.0f}" if value < 1 else f"{value:.0f}"


def _svg(parts: Sequence[str], high: float, title: str, wide: int = WIDE) -> str:
    return (
        f'<svg viewBox="0 0 {wide} {high:.0f}" role="img" aria-label="{escape(title)}" '
        f'style="min-width:{0.72 * wide:.0f}px">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _dot(x: float, y: float, radius: float, kind: str, told: str) -> str:
    """A mark that says its value when it is pointed at; the ring around it is easier to meet."""
    return (
        f'<g class="{kind}"><circle class="reach" cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/><title>{escape(told)}</title></g>'
    )
