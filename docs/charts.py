"""Lines over a logarithmic axis as SVG, out of a Report's `chart`: docs are built without a plotting package.

Colours are told apart in light and dark, without colour by their dashes, and named at the line's end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 64, 550, 24, 52  # the edges of the plot; names stand to its right
NAME_LEFT, LETTER = 44, 7.5  # of a name beyond the plot, and of the widest usual letter
COLOURS = ("#2f7ed8", "#d9822b", "#3a9d5d", "#9d4edd", "#c0392b", "#6b7785")
DASHES = ("", "7 4", "2 3", "10 3 2 3", "5 2", "1 2")
_STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #444; }
.axis { stroke: #888; fill: none; } .grid { stroke: #8884; } .mark { stroke: #888; stroke-dasharray: 3 3; }
@media (prefers-color-scheme: dark) { text { fill: #ccc; } }
</style>"""


def lines(chart: Mapping[str, Any]) -> str:
    """A chart of shares, 0 to 1, over a logarithmic axis.

    Parameters
    ----------
    chart : `x` and `y` name the axes, `series` has points by name, `line` is a share to mark
    """
    series: Mapping[str, Sequence[Sequence[float]]] = {
        name: points for name, points in chart["series"].items() if points
    }
    rates = [point[0] for points in series.values() for point in points if point[0] > 0]
    width = RIGHT + NAME_LEFT + LETTER * max(map(len, series), default=0)
    low, high = min(rates, default=1.0) / 1.15, max(rates, default=1.0) * 1.15

    def across(x: float) -> float:
        return LEFT + (RIGHT - LEFT) * math.log(x / low) / math.log(high / low)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(y, 0.0), 1.0)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {HEIGHT}" role="img">',
        f"<title>{escape(chart['y'])} against {escape(chart['x'])}</title>",
        _STYLE,
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = down(share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for tick in ticks(low, high):
        x = across(tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>'
        )
    if (line := chart.get("line")) is not None:
        y = down(line)
        parts.append(f'<line class="mark" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{RIGHT}"/>'
        f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">'
        f"{escape(chart['x'])}</text>"
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(chart['y'])}</text>"
    )
    for number, (name, points) in enumerate(series.items()):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        places = [(across(x), down(y)) for x, y in sorted((each[0], each[1]) for each in points)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        label = TOP + 10 + 20 * number
        at = RIGHT + 14
        parts.append(
            f'<g stroke="{colour}" fill="none" stroke-width="2">'
            f'<path d="M{path}" stroke-dasharray="{dash}"/>'
            f'<path d="M{at} {label}h24" stroke-dasharray="{dash}"/>'
            + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
            + f'</g><text x="{at + 30}" y="{label + 4}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two values."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [
        tick for power in exponents for tick in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
        if low <= tick <= high
    ]  # fmt: skip
