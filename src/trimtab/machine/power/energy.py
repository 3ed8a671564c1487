"""Energy figures that know where they are from, and the choice of a source.

The ladder, best first: `measured:nvml` (a GPU's own counter), `measured:rapl` (the processor's own counter),
`measured:external` (a meter's record), `modelled` (arithmetic over a data sheet). A modelled figure and a
measured one never meet in a sum or a ratio: `Energy` refuses. The number is never shown without its source.
This module knows no model and no request; it owns the figure, the trace over time, and the ladder.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, overload

from trimtab.errors import UsageError

Basis = Literal["measured", "modelled"]
MODELLED = "modelled"
SOURCES = ("measured:nvml", "measured:rapl", "measured:external", MODELLED)


class MixedEnergy(UsageError):
    """A modelled figure and a measured one in one sum or ratio."""


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules from a known source; sums, and shares of a number of tokens, stay of that source.

    The plain number is only handed out by `joules`, to whoever names the basis that it must have.

    Parameters
    ----------
    _joules : the figure
    source : a rung of the ladder; a sum of several meters names them all, `measured:nvml+rapl`
    _low, _high : the band it lies in; equal to the figure where the source states none
    """

    _joules: float
    source: str
    _low: float = field(default=math.nan)
    _high: float = field(default=math.nan)

    def __post_init__(self) -> None:
        if self.source != MODELLED and not self.source.startswith("measured:"):
            raise UsageError(f"no energy source `{self.source}`", f"there is {', '.join(SOURCES)}")
        for name in ("_low", "_high"):
            if math.isnan(getattr(self, name)):
                object.__setattr__(self, name, self._joules)

    @property
    def basis(self) -> Basis:
        return "modelled" if self.source == MODELLED else "measured"

    def joules(self, basis: Basis) -> float:
        """The number, for a reader that knows what it is.

        Raises
        ------
        MixedEnergy : it is of the other basis
        """
        if basis != self.basis:
            raise MixedEnergy(f"this energy is {self.source}, and not {basis}")
        return self._joules

    def band(self, basis: Basis) -> tuple[float, float]:
        """Lowest and highest joules it may be; see `joules`."""
        self.joules(basis)
        return self._low, self._high

    def __add__(self, other: Energy) -> Energy:
        self._same(other, "added to")
        kinds = dict.fromkeys(
            kind for each in (self, other) for kind in each.source.partition(":")[2].split("+")
        )
        source = MODELLED if self.basis == MODELLED else "measured:" + "+".join(kinds)
        return Energy(self._joules + other._joules, source, self._low + other._low, self._high + other._high)

    def __mul__(self, factor: float) -> Energy:
        if isinstance(factor, Energy):
            raise MixedEnergy("energies are not multiplied")
        low, high = sorted((self._low * factor, self._high * factor))
        return Energy(self._joules * factor, self.source, low, high)

    @overload
    def __truediv__(self, other: Energy) -> float: ...
    @overload
    def __truediv__(self, other: float) -> Energy: ...
    def __truediv__(self, other: Energy | float) -> Energy | float:
        if isinstance(other, Energy):
            self._same(other, "divided by")
            return self._joules / other._joules
        return self * (1 / other)

    def __lt__(self, other: Energy) -> bool:
        self._same(other, "compared with")
        return self._joules < other._joules

    def __str__(self) -> str:
        band = f", {self._low:.3g} to {self._high:.3g}" if self._low != self._high else ""
        return f"{self._joules:.3g} J ({self.source}{band})"

    def as_json(self) -> dict[str, Any]:
        """Everything about it; the source goes along."""
        return {"joules": self._joules, "low": self._low, "high": self._high, "source": self.source}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Energy:
        return cls(float(value["joules"]), str(value["source"]), float(value["low"]), float(value["high"]))

    def _same(self, other: object, verb: str) -> None:
        if not isinstance(other, Energy):
            raise MixedEnergy(f"an energy is not {verb} a plain number without a source")
        if other.basis != self.basis:
            raise MixedEnergy(
                f"a figure that is {self.source} is not {verb} one that is {other.source}",
                "compare figures of one source",
            )


def total(energies: Iterable[Energy]) -> Energy | None:
    """Their sum; None of nothing.

    Raises
    ------
    MixedEnergy : some are modelled and some measured
    """
    result: Energy | None = None
    for each in energies:
        result = each if result is None else result + each
    return result


@dataclass(frozen=True, slots=True)
class EnergyTrace:
    """A counter's readings over time: joules since some moment, at rising times of one clock.

    Between two readings the power counts as constant. So windows that tile a span add up to the span, however
    short they are beside the readings' distance; a single window shorter than that is an average.
    """

    times_s: Sequence[float]
    joules: Sequence[float]
    source: str

    def __post_init__(self) -> None:
        if len(self.times_s) != len(self.joules) or len(self.times_s) < 2:
            raise UsageError(f"an energy trace needs two readings at least, not {len(self.times_s)}")
        if any(later <= earlier for earlier, later in zip(self.times_s, self.times_s[1:], strict=False)):
            raise UsageError("the times of an energy trace must rise")

    @classmethod
    def of_power(cls, times_s: Sequence[float], watts: Sequence[float], source: str) -> EnergyTrace:
        """Sampled power, integrated by trapezoids."""
        if len(times_s) != len(watts) or len(times_s) < 2:
            raise UsageError(f"a power record needs two samples at least, not {len(times_s)}")
        sums = [0.0]
        for index in range(1, len(times_s)):
            step = times_s[index] - times_s[index - 1]
            sums.append(sums[-1] + step * (watts[index] + watts[index - 1]) / 2)
        return cls(list(times_s), sums, source)

    def covers(self, start_s: float, end_s: float) -> bool:
        return self.times_s[0] <= start_s and end_s <= self.times_s[-1]

    def between(self, start_s: float, end_s: float) -> Energy:
        """Energy of a window.

        Raises
        ------
        UsageError : the readings do not cover it; nothing is extrapolated
        """
        if not self.covers(start_s, end_s):
            raise UsageError(
                f"the record covers {self.times_s[0]:.3f} to {self.times_s[-1]:.3f} s, "
                f"not {start_s:.3f} to {end_s:.3f} s"
            )
        return Energy(self._at(end_s) - self._at(start_s), self.source)

    def _at(self, moment_s: float) -> float:
        after = min(max(1, bisect_right(self.times_s, moment_s)), len(self.times_s) - 1)
        earlier, later = self.times_s[after - 1], self.times_s[after]
        share = (moment_s - earlier) / (later - earlier)
        return self.joules[after - 1] + share * (self.joules[after] - self.joules[after - 1])


class Meter(Protocol):
    """Something that counts joules."""

    source: str

    def read(self) -> float:
        """Joules since some fixed moment."""
        ...

    def close(self) -> None: ...


def open_meter(*, gpu: bool = False) -> Meter | None:
    """The best meter that this machine has; None where energy can only be modelled.

    Parameters
    ----------
    gpu : the work runs on the GPU; its counter then goes before the processor's
    """
    from trimtab.machine.power import meters as power_meters

    kinds = [power_meters.Nvml.open] * gpu + [power_meters.Rapl.open]
    return next((meter for kind in kinds if (meter := kind()) is not None), None)
