"""Ten anchors, measured again in seconds: is this still the machine that the profile describes?

A virtual machine moves, a BIOS is updated, a memory module is pulled. Whoever divides by measured numbers
should notice. Each anchor is a figure of the profile with the change that measurement alone can bring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.errors import NotMeasured
from trimtab.machine.micro.ladder import Curve
from trimtab.machine.micro.rows import Row, from_dict
from trimtab.machine.micro.units import processors
from trimtab.machine.profile import Profile

Say = Callable[[str], None]

L2_BYTES, MEMORY_BYTES = 256 * 2**10, 64 * 2**20
UNITS = ("fma_f32", "dpbusd", "dpbf16", "dp8_maddubs", "mul_i64", "popcnt_i64")
"""Whose throughput may be an anchor; the first three that this processor has are."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """One figure, as the profile has it and as it is now.

    Parameters
    ----------
    unit : of both: cycles, ns or Hz
    tolerance : share by which measuring again may differ: little for cycles of a core, much for what a
        machine shares with its neighbours
    """

    name: str
    unit: str
    before: float
    now: float
    tolerance: float

    @property
    def change(self) -> float:
        return self.now / self.before - 1

    @property
    def changed(self) -> bool:
        return abs(self.change) > self.tolerance


def verify(profile: Profile, *, say: Say = lambda _: None) -> list[Anchor]:
    """Measure the anchors again, in about three seconds.

    Raises
    ------
    NotMeasured : the profile lacks `peak_units`, `latency` or `sync`
    """
    from trimtab.machine.micro import sync, units

    sections = {
        name: profile.need(name, max_age_s=float("inf"), allow_noisy=True)
        for name in ("peak_units", "latency", "sync")
    }
    before, cpus = sections["peak_units"], processors()
    say("instructions")
    now = units.measure(quick=True, say=lambda _: None)
    found = [Anchor("core clock", "Hz", before["frequency_hz"]["one"], now["frequency_hz"]["one"], 0.1)]
    then, again = _rows(before), _rows(now)
    names = [name for name in UNITS if any(row.name == name for row in then.values())][:3]
    for name in names:
        label = max((row.width_bits, row.label) for row in then.values() if row.name == name)[1]
        found.append(_cycles(f"{label} throughput", then, again, (label, "throughput"), 0.05))
    found.append(_cycles("load from L1", then, again, ("chase_64 64", "latency"), 0.05))
    say("loads")
    found += _loads(sections["latency"])
    say("cores and the system")
    events = {row["name"]: row for row in sections["sync"]["rows"] if row["width_bits"] == 0}
    fresh = {row["name"]: row for row in sync.measure(quick=True, say=lambda _: None)["rows"]}
    shares = {"atomic_add": 0.15, "line_round_trip": 0.4, "syscall": 0.3, "pipe": 0.4}
    if len(cpus) > 1:
        del shares["pipe"]
    for name, share in shares.items():
        if name in events and name in fresh:
            found.append(Anchor(name.replace("_", " "), "ns", events[name]["ns"], fresh[name]["ns"], share))
    return found


def _rows(data: Mapping[str, Any]) -> dict[tuple[str, str], Row]:
    rows = [from_dict(row) for row in data["rows"]]
    return {
        (row.label, row.suite): row for row in rows if row.cores == 1 and row.detail.get("data") != "zeros"
    }


def _cycles(
    name: str,
    before: Mapping[tuple[str, str], Row],
    now: Mapping[tuple[str, str], Row],
    key: tuple[str, str],
    tolerance: float,
) -> Anchor:
    then, again = before.get(key), now.get(key)
    if then is None or again is None or not then.cycles or not again.cycles:
        raise NotMeasured(f"the profile has no {key[1]} of `{key[0]}`", "measure it: `trimtab measure micro`")
    return Anchor(name, "cycles", then.cycles, again.cycles, tolerance)


def _loads(data: Mapping[str, Any]) -> list[Anchor]:
    from trimtab._native import micro

    points = {point["bytes"]: point for point in data["curves"]["random_2m"]}
    found = []
    for name, size, tolerance in (("load from L2", L2_BYTES, 0.15), ("load from memory", MEMORY_BYTES, 0.4)):
        # The nearest footprint of the profile, should its grid be another one.
        near = min(points, key=lambda known: abs(known / size - 1))
        chase, curve = micro.Chase(near, True), Curve(True)
        for _ in range(3 if near < 2**22 else 1):
            curve.take(chase, near, 5, 20_000)
        [point] = curve.points()
        found.append(Anchor(name, "ns", points[near]["ns"], point.ns, tolerance))
    return found
