"""What a picture will cost, from its header alone, and what is still to be done for those that are here.

A line through the processor times of the last pictures over their megapixels, in which old ones count less
and less. Admission asks it; nobody else should, because the content of a picture is not in its header.
"""

from __future__ import annotations

_KEEP = 0.98
_FIRST_S = 0.2  # before anything is known


class Costs:
    """Learns while the pipeline runs; guarded by its lock."""

    def __init__(self) -> None:
        self.backlog_s = 0.0
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def expect(self, megapixels: float) -> float:
        """Processor seconds of a picture."""
        if self._n == 0:
            return _FIRST_S
        mean_x, mean_y = self._x / self._n, self._y / self._n
        spread = self._xx / self._n - mean_x**2
        slope = max(0.0, (self._xy / self._n - mean_x * mean_y) / spread) if spread > 1e-6 else 0.0
        return max(0.1 * mean_y, mean_y + slope * (megapixels - mean_x))

    def enter(self, cost_s: float) -> None:
        """One more to do."""
        self.backlog_s += cost_s

    def leave(self, cost_s: float, megapixels: float, spent_s: float | None) -> None:
        """One is through; `spent_s` is what it took, None where that says nothing."""
        self.backlog_s = max(0.0, self.backlog_s - cost_s)
        if spent_s is None:
            return
        self._n = self._n * _KEEP + 1
        self._x = self._x * _KEEP + megapixels
        self._y = self._y * _KEEP + spent_s
        self._xx = self._xx * _KEEP + megapixels**2
        self._xy = self._xy * _KEEP + megapixels * spent_s
