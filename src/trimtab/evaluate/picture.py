"""Quality against time as SVG: one disc a candidate, its area the memory. No plotting package is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 72, 500, 24, 56
LARGEST, SMALLEST = 26.0, 4.0
COLOURS = ("#2f7ed8", "#d9822b", "#3a9d5d", "#9d4edd", "#c0392b", "#6b7785")
_STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #444; }
.axis { stroke: #888; fill: none; } .grid { stroke: #8884; }
@media (prefers-color-scheme: dark) { text { fill: #ccc; } }
</style>"""


@dataclass(frozen=True, slots=True)
class Disc:
    """One candidate: seconds to the right, quality upwards as the axis says, memory as its area."""

    name: str
    seconds: float
    quality: float
    memory_bytes: int = 0


def scatter(discs: Sequence[Disc], *, across: str, upwards: str) -> str:
    """The picture.

    Parameters
    ----------
    across, upwards : what the axes are; both are linear, from their least to their largest value
    """
    xs, ys = _range([disc.seconds for disc in discs]), _range([disc.quality for disc in discs])
    most = max((disc.memory_bytes for disc in discs), default=0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(upwards)} against {escape(across)}</title>",
        _STYLE,
    ]
    for tick in _ticks(*ys):
        y = _down(tick, ys)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for tick in _ticks(*xs):
        x = _along(tick, xs)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>'
        )
    parts.append(
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{RIGHT}"/>'
        f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(across)}</text>'
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(upwards)}</text>"
    )
    for number, disc in enumerate(discs):
        colour = COLOURS[number % len(COLOURS)]
        radius = max(SMALLEST, LARGEST * math.sqrt(disc.memory_bytes / most)) if most else SMALLEST
        label = TOP + 12 + 22 * number
        parts.append(
            f'<circle cx="{_along(disc.seconds, xs):.1f}" cy="{_down(disc.quality, ys):.1f}" '
            f'r="{radius:.1f}" fill="{colour}" fill-opacity="0.65" stroke="{colour}"/>'
            f'<circle cx="{RIGHT + 22}" cy="{label}" r="5" fill="{colour}"/>'
            f'<text x="{RIGHT + 34}" y="{label + 4}">{escape(disc.name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return max(0.0, low - room) if low >= 0 else low - room, high + room


def _along(value: float, ends: tuple[float, float]) -> float:
    return LEFT + (RIGHT - LEFT) * (value - ends[0]) / (ends[1] - ends[0])


def _down(value: float, ends: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - ends[0]) / (ends[1] - ends[0])


def _ticks(low: float, high: float) -> list[float]:
    """About five round values between two ends."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= raw)
    first = math.ceil(low / step)
    return [round(index * step, 12) for index in range(first, math.floor(high / step) + 1)]
