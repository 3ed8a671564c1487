"""Speed over minutes of back-to-back prompts: windows, their trend, and the time others took meanwhile.

On a device that heats up, the trend is the throttle. On a shared machine it shows neighbours, so every window
carries the steal time beside it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.evaluate.device.activity import Sample


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through the windows.

    Parameters
    ----------
    tokens_per_s : of each whole window
    steal : share of the processor time stolen in each
    slope_per_minute : change of the speed in a minute, as a share of its mean
    error_per_minute : standard error of that
    """

    window_s: float
    tokens_per_s: Sequence[float]
    steal: Sequence[float]
    slope_per_minute: float
    error_per_minute: float

    @property
    def drifts(self) -> bool:
        """The trend is larger than chance would make it (two standard errors) and than 1 % a minute."""
        return abs(self.slope_per_minute) > max(0.01, 2 * self.error_per_minute)

    def as_json(self) -> dict[str, Any]:
        return {
            "window_s": self.window_s,
            "tokens_per_s": list(self.tokens_per_s),
            "steal": list(self.steal),
            "slope_per_minute": self.slope_per_minute,
            "error_per_minute": self.error_per_minute,
            "drifts": self.drifts,
        }


def trend(
    times_s: Sequence[float], start_s: float, end_s: float, window_s: float, samples: Sequence[Sample] = ()
) -> Trend | None:
    """The trend of tokens that arrived at `times_s`; None with fewer than three whole windows.

    Windows count all tokens in them, also while the next prompt is computed: this is what a user gets.
    """
    number = int((end_s - start_s) / window_s + 1e-9)
    if number < 3:
        return None
    counts = [0] * number
    for moment in times_s:
        index = int((moment - start_s) / window_s)
        if 0 <= index < number:
            counts[index] += 1
    speeds = [count / window_s for count in counts]
    mean = statistics.mean(speeds)
    middles = [(index + 0.5) * window_s / 60 for index in range(number)]
    centre = statistics.mean(middles)
    spread = sum((x - centre) ** 2 for x in middles)
    slope = sum((x - centre) * (y - mean) for x, y in zip(middles, speeds, strict=True)) / spread
    rest = sum((y - mean - slope * (x - centre)) ** 2 for x, y in zip(middles, speeds, strict=True))
    error = math.sqrt(rest / (number - 2) / spread)
    steal = [_steal(samples, start_s + i * window_s, start_s + (i + 1) * window_s) for i in range(number)]
    scale = mean if mean > 0 else 1.0
    return Trend(window_s, speeds, steal, slope / scale, error / scale)


def _steal(samples: Sequence[Sample], start_s: float, end_s: float) -> float:
    inside = [sample for sample in samples if start_s <= sample.time_s <= end_s]
    if len(inside) < 2 or inside[-1].total_ticks <= inside[0].total_ticks:
        return 0.0
    ticks = inside[-1].total_ticks - inside[0].total_ticks
    return (inside[-1].steal_ticks - inside[0].steal_ticks) / ticks
