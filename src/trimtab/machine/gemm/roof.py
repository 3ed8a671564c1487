"""The least time of a product on this machine: what its arithmetic, its traffic and one barrier allow.

The ceilings come from the profile's `peak` and `bandwidth` sections, or from a short probe where there are
none. A predictor keeps those it was trained with: it knows by how much products miss them, and no others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.errors import NotMeasured
from trimtab.machine.gemm.blocking import TILE
from trimtab.machine.gemm.shapes import Shape
from trimtab.machine.profile import Profile

BITS = {"q4": 4, "q8": 8, "int8": 8, "bf16": 16}
_UNITS = {
    "q4": "int8",
    "q8": "int8",
    "int8": "int8",
    "bf16": "float32",
}  # bf16 times float32 is done in float32
_PROBED = (16 * 2**10, 256 * 2**10, 2**20, 4 * 2**20, 16 * 2**20, 64 * 2**20, 256 * 2**20)


def base_of(format: str) -> str:
    """`q4` of `q4/16+min`."""
    return format.partition("+")[0].partition("/")[0]


def weight_bytes(format: str, shape: Shape) -> float:
    """Packed weights of a product, without the padding of its last tile."""
    base, wide = base_of(format), shape.n * (2 if shape.gated else 1)
    steps = 2 * (2 if "/16" in format else 1) * (2 if "+min" in format else 1)
    scales = wide * shape.k / 32 * steps if base in ("q4", "q8") else wide * 4 if base == "int8" else 0
    return wide * shape.k * BITS[base] / 8 + scales


def activation_bytes(format: str) -> float:
    """Bytes of one packed activation: a float, or an integer with its share of a step."""
    base = base_of(format)
    return 4.0 if base == "bf16" else 1.0 if base == "int8" else 1.25


@dataclass(frozen=True, slots=True)
class Roof:
    """Ceilings of one number of threads.

    Parameters
    ----------
    peaks : unit (int8, float32) -> operations a second
    rates : (working set in bytes, bytes a second) of reading, ascending
    barrier_s : the shortest time between two products
    caches : bytes of L1, L2 and L3 that these threads have
    source : `profile`, or `probe` where that had none
    """

    threads: int
    peaks: Mapping[str, float]
    rates: Sequence[tuple[float, float]]
    barrier_s: float
    caches: tuple[float, float, float]
    source: str

    def rate(self, working_set_bytes: float) -> float:
        """Bytes a second, on a line of logarithms between measured working sets."""
        points = self.rates
        if working_set_bytes <= points[0][0]:
            return points[0][1]
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            if working_set_bytes <= x1:
                share = math.log(working_set_bytes / x0) / math.log(x1 / x0)
                return math.exp(math.log(y0) + share * math.log(y1 / y0))
        return points[-1][1]

    def parts(self, format: str, shape: Shape, passes: float = 1.0) -> tuple[float, float, float]:
        """Seconds of arithmetic, of memory traffic, and of meeting.

        Weights come from memory, as in a model that no cache holds. `passes` is how often the activations
        are gone through; they and the results stay where they fit.
        """
        activations = shape.m * shape.k * activation_bytes(format)
        results = 4.0 * shape.m * shape.n
        weights = weight_bytes(format, shape)
        memory = weights / self.rates[-1][1]
        memory += (activations * passes + results) / self.rate(max(activations + results, TILE * shape.k))
        return shape.ops / self.peaks[_UNITS[base_of(format)]], memory, self.barrier_s

    def seconds(self, format: str, shape: Shape) -> float:
        """The largest of the three."""
        return max(self.parts(format, shape))

    def limit(self, format: str, shape: Shape) -> str:
        """Which of them that is."""
        parts = self.parts(format, shape)
        return ("compute", "bandwidth", "dispatch")[parts.index(max(parts))]

    def to_json(self) -> dict[str, Any]:
        return {
            "threads": self.threads, "peaks_ops_per_s": dict(self.peaks),
            "rates_bytes_per_s": [list(point) for point in self.rates], "barrier_s": self.barrier_s,
            "caches_bytes": list(self.caches), "source": self.source,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Roof:
        rates = [(float(size), float(rate)) for size, rate in data["rates_bytes_per_s"]]
        low, middle, high = (float(size) for size in data["caches_bytes"])
        peaks = {str(unit): float(rate) for unit, rate in data["peaks_ops_per_s"].items()}
        return cls(
            int(data["threads"]), peaks, rates, float(data["barrier_s"]), (low, middle, high), data["source"]
        )


def measured(threads: int, say: Callable[[str], None], profile: Profile | None = None) -> Roof:
    """The ceilings of `threads` threads: out of the profile, or measured now in about two seconds."""
    try:
        if profile is None:
            profile = Profile.load()
        return _from_profile(profile, threads)
    except NotMeasured as reason:
        say(f"ceilings of {threads} threads: measuring them ({reason.message})")
    return _probed(threads)


def _from_profile(profile: Profile, threads: int) -> Roof:
    from trimtab.machine.roofline import Ceilings

    ceilings = Ceilings.of(profile, threads)
    peaks = {unit: ceilings.peak(unit) for unit in ("int8", "float32")}
    return Roof(
        threads, peaks, [(float(x), float(y)) for x, y in ceilings.rates["read"]], _barrier_s(threads),
        _caches(ceilings.levels), "profile",
    )  # fmt: skip


def _probed(threads: int) -> Roof:
    from trimtab import _native
    from trimtab.machine import probe
    from trimtab.machine.roofline import cache_levels

    limits = probe.measure(threads, 0.2)
    # Where the fastest floats are pairs of bf16, single precision runs at half their rate.
    share = 0.5 if limits.float_kind.endswith("bf16") else 1.0
    peaks = {"int8": limits.int8_ops_per_s, "float32": limits.float_ops_per_s * share}
    rates = []
    for size in _PROBED:
        passes = sorted(_native.read_rates(size * threads if size < 2**21 else size, threads, 0.1))
        rates.append((float(size), float(passes[len(passes) // 2])))
    levels = cache_levels({"caches": probe.describe().caches}, threads)
    return Roof(threads, peaks, rates, _barrier_s(threads), _caches(levels), "probe")


def _barrier_s(threads: int) -> float:
    """The time of a product that is next to nothing."""
    from trimtab import _native

    timer = _native.MultiplyTimer(_native.choose_kernels(""), 1 << 16, 1 << 16)
    found: list[float] = timer.time(
        _native.Pool(threads), "int8", "token", 1, 16, 32, False, _native.Blocking(), False, 0.005, 5
    )
    return max(min(found), 1e-8)


def _caches(levels: Sequence[tuple[str, float]]) -> tuple[float, float, float]:
    sizes = dict(levels)
    first = sizes.get("L1", 32.0 * 2**10)
    second = max(sizes.get("L2", 2.0**20), first)
    return first, second, max(sizes.get("L3", second), second)
