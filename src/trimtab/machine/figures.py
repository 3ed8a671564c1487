"""What a profile says, as curves and costs that can be drawn: the roofline, the latency ladder, the disk.

Whoever draws them, on a page or with characters, needs no section's layout. What was not measured is empty.
Noisy and old sections are drawn too, and named as that: a drawing decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trimtab.errors import NotMeasured
from trimtab.machine.profile import DAY_S, Profile
from trimtab.machine.roofline import REGISTER, Ceilings, between, cache_levels, chase_points

OLD_S = 30 * DAY_S


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart: points in ascending order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one thing costs, for the ladder."""

    name: str
    seconds: float
    kind: str  # memory, system or device


@dataclass(frozen=True, slots=True)
class Mark:
    """One measured product in the roofline: operations a byte of its weights, operations a second."""

    name: str
    unit: str
    intensity: float
    ops_per_s: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """Ceilings with a number of threads: (level, bytes a second), (unit, operations a second), products."""

    threads: int
    rates: Sequence[tuple[str, float]]
    peaks: Sequence[tuple[str, float]]
    marks: Sequence[Mark] = field(default=())


@dataclass(frozen=True, slots=True)
class State:
    """When and how calmly a section was measured; `problem` is empty when it can be used."""

    name: str
    date: str
    seconds: float
    problem: str


def states(profile: Profile) -> list[State]:
    """Every section of the profile, in its order."""
    return [
        State(name, section.date, section.seconds, section.problem(OLD_S))
        for name, section in profile.sections.items()
    ]


def roofline(profile: Profile) -> Roofline | None:
    """The roofline with the most threads that both `peak` and `bandwidth` were measured with."""
    for threads in sorted(_threads(profile), reverse=True):
        try:
            ceilings = Ceilings.of(profile, threads, max_age_s=float("inf"), allow_noisy=True)
        except (NotMeasured, KeyError, TypeError, ValueError):
            continue
        inside = _inside(cache_levels(profile.machine, threads))
        beyond = max((size for _, size in ceilings.rates.get("read", ())), default=0.0)
        rates = [
            (name, ceilings.rate(size))
            for name, size in [*inside, ("memory", beyond)]
            if "read" in ceilings.rates
        ]
        peaks = [(unit, value) for (unit, kind), value in ceilings.peaks.items() if kind == REGISTER]
        return Roofline(threads, rates, sorted(peaks, key=lambda p: -p[1]), _marks(profile, threads))
    return None


def bandwidth(profile: Profile, pattern: str = "read") -> list[Curve]:
    """Bytes a second over the working set, a curve for each number of threads."""
    rows = [row for row in _rows(profile, "bandwidth") if row.get("pattern") == pattern]
    return _curves(
        rows,
        lambda row: f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}",
        lambda row: (float(row["working_set_bytes"]), float(row["bytes_per_s"])),
    )


WALKS = {
    "random_2m": "2 MiB pages",
    "random_4k": "4 KiB pages",
    "stride_4k": "in order",
}


def loads(profile: Profile) -> list[Curve]:
    """Seconds of one dependent load over the working set: in random order, and in order for comparison."""
    curves = _data(profile, "latency").get("curves", {})
    return [
        Curve(words, [(float(each["bytes"]), float(each["ns"]) * 1e-9) for each in curves[name]])
        for name, words in WALKS.items()
        if curves.get(name)
    ]


def disk(profile: Profile, op: str) -> list[Curve]:
    """Bytes a second over the size of a transfer, a curve for each queue depth; `op` is read or write."""
    rows = [row for row in _rows(profile, "disk") if row.get("op") == op]
    return _curves(
        rows,
        lambda row: f"depth {row['depth']}",
        lambda row: (float(row["size_bytes"]), float(row["bytes_per_s"])),
    )


def costs(profile: Profile) -> list[Cost]:
    """From a load out of the first cache to the start of a program, the cheapest first."""
    found: list[Cost] = []
    chase = chase_points(_data(profile, "latency"))
    if chase:
        places = _inside(cache_levels(profile.machine, 1))
        for name, where in [*places, ("memory", chase[-1][0])]:
            found.append(Cost(f"load from {name}", between(chase, where), "memory"))
    for threads in sorted(_threads(profile)):
        if threads > 1:
            try:
                region_s = Ceilings.of(profile, threads, max_age_s=float("inf"), allow_noisy=True).region_s
            except (NotMeasured, KeyError, TypeError, ValueError):
                continue
            if region_s:
                found.append(Cost(f"parallel region of {threads} threads", region_s, "system"))
    events = [row for row in _rows(profile, "sync") if not row["width_bits"]]
    found += [Cost(str(row["name"]).replace("_", " "), float(row["ns"]) * 1e-9, "system") for row in events]
    known = {cost.name for cost in found}
    found += [
        Cost(str(row["name"]), float(row["seconds"]), "system")
        for row in _rows(profile, "process")
        if row["name"] not in known
    ]
    for row in _rows(profile, "disk"):
        if (row["depth"], row["op"]) == (1, "read"):
            found.append(
                Cost(f"disk read of {row['size_bytes'] >> 10} KiB", float(row["latency_s"]), "device")
            )
    for row in _rows(profile, "gpu"):
        if row.get("unit") == "s":
            found.append(Cost(f"GPU: {row['name']}", float(row["median"]), "device"))
    return sorted((cost for cost in found if cost.seconds > 0), key=lambda cost: cost.seconds)


def facts(profile: Profile) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the machine is and may take: titles, each with labels and values for people."""
    topology, limits = _data(profile, "topology"), _data(profile, "limits")
    machine = dict(profile.machine)
    parts = [("Name", str(topology.get("processor") or machine.get("processor", "")))]
    if topology:
        shape = f"{topology['sockets']} socket, {topology['cores']} cores, {topology['threads']} threads"
        parts.append(("Processors", shape))
        parts.append(("Memory nodes", str(len(topology["numa"]) or "not told")))
        parts += [
            (cache["name"], f"{size(cache['bytes'])} x {cache['instances']}, {cache['kind']}")
            for cache in topology["caches"]
        ]
        parts.append(("Pages", _pages(topology["pages"])))
        inside = topology["hypervisor"]
        what = [
            word
            for word, here in (("virtual machine", inside["virtual"]), (inside["container"], True))
            if here
        ]
        parts.append(("Runs in", ", ".join(filter(None, what)) or "its own hardware"))
        parts.append(("System", str(topology["system"])))
    allowed: list[tuple[str, str]] = []
    if limits:
        memory, processors = limits["memory"], limits["processors"]
        allowed = [
            ("Memory of the machine", size(memory["total_bytes"])),
            ("Most for this process", _limit(memory["group_bytes"], memory["group"])),
            ("Free for it now", size(memory["room_bytes"])),
            ("Processors it may use", f"{processors['least']:g}"),
            ("Processor quota", "none" if processors["quota"] is None else f"{processors['quota']:g}"),
            ("Swap", size(limits["swap"]["total_bytes"])),
            ("Open files", str(limits["ulimits"].get("open_files") or "no limit")),
            ("Locked memory", size(limits["ulimits"].get("locked_bytes")) or "no limit"),
        ]
    gpu = _data(profile, "gpu")
    devices: list[tuple[str, str]] = []
    if gpu:
        devices = [("Device", gpu["name"] if gpu["present"] else f"none: {gpu['why']}")]
        devices += [(row["name"], si(row["median"], row["unit"])) for row in gpu.get("rows", ())]
    found = [("Processor", parts), ("Limits", allowed), ("GPU", devices)]
    return [(title, lines) for title, lines in found if lines]


def when(date: str) -> str:
    """A section's date for people: `2026-09-01 14:05 UTC`."""
    return f"{datetime.fromisoformat(date).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def si(value: float, unit: str) -> str:
    """`472 Gop/s`, `38 µs`: three figures and a prefix."""
    unit = {"operations/s": "op/s", "bytes/s": "B/s"}.get(unit, unit)
    if value == 0:
        return f"0 {unit}"
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k"), (0, ""), (-3, "m"), (-6, "µ")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{_three(value / 10**power)} {prefix}{unit}"
    return f"{_three(value / 1e-9)} n{unit}"


def size(count: float | None) -> str:
    """Bytes for people, `1.0 MiB`; empty when they are not known."""
    if count is None:
        return ""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{_three(value)} {units[0]}"


def _three(value: float) -> str:
    """Three significant figures, and no zeros behind the point for their own sake."""
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e" in text else text


def _inside(levels: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """A working set that lies in each level: the middle, by ratio, between its end and the last one's.

    Close to its end a shared level is the neighbours' too.
    """
    before = [size / 4 for _, size in levels[:1]] + [size for _, size in levels]
    return [(name, (low * size) ** 0.5) for low, (name, size) in zip(before, levels, strict=False)]


def _marks(profile: Profile, threads: int) -> list[Mark]:
    """The engine's products: every weight is read once for all rows, so rows set the intensity."""
    section = _data(profile, "peak")
    bytes_of = {"int8": 1.0, "q4": 0.5625, "bf16": 2.0, "float32": 2.0}  # float32 multiplies bf16 weights
    counts = section.get("shape", {}).get("rows", {})
    return [
        Mark(
            f"{row['unit']}, {row['class']}",
            row["unit"],
            2 * counts[row["class"]] / bytes_of[row["unit"]],
            row["median"],
        )
        for row in _rows(profile, "peak")
        if row["threads"] == threads and row["class"] in counts and row["unit"] in bytes_of
    ]


def _threads(profile: Profile) -> set[int]:
    return {row["threads"] for row in _rows(profile, "bandwidth")} & {
        row["threads"] for row in _rows(profile, "peak")
    }


def _rows(profile: Profile, name: str) -> list[Mapping[str, Any]]:
    return list(_data(profile, name).get("rows", ()))


def _data(profile: Profile, name: str) -> Mapping[str, Any]:
    section = profile.sections.get(name)
    return section.data if section else {}


def _curves(
    rows: Sequence[Mapping[str, Any]],
    name: Callable[[Mapping[str, Any]], str],
    point: Callable[[Mapping[str, Any]], tuple[float, float]],
) -> list[Curve]:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        found.setdefault(name(row), []).append(point(row))
    # Of rows about one point, of several number types for example, the last one counts.
    return [Curve(each, sorted(dict(points).items())) for each, points in found.items()]


def _pages(pages: Mapping[str, Any]) -> str:
    reserved = [
        f"{state['reserved']} of {size(int(each))}"
        for each, state in pages["huge"].items()
        if state["reserved"]
    ]
    huge = f"huge: {', '.join(reserved)}" if reserved else "no huge ones reserved"
    return f"{size(pages['base_bytes'])}; {huge}; transparent: {pages['transparent'] or 'none'}"


def _limit(limit: int | None, where: str | None) -> str:
    return "no limit but the machine's" if limit is None else f"{size(limit)} (by {where})"
