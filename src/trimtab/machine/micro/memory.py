"""Takes the curves of the memory ladder and puts the section `latency` together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.machine.micro.ladder import PAGE, Curve, footprints, levels
from trimtab.machine.micro.units import processors
from trimtab.machine.probe import describe

Say = Callable[[str], None]

MOST_BYTES = 2**30
CLOSE_BYTES = 64 * 2**20
"""Up to here every curve is taken in every pass; beyond, where only memory is left, once and coarser."""
METHOD = (
    "ring of pointers, one node a cache line: `random` order (latency), `stride` in address order, "
    "`parallel` random with 8 hops under way on every processor, `page` random with one line a 4 KiB page; "
    "4k and 2m are the page sizes asked for; ns and cycles of a hop, the lowest median of the passes; "
    "cycles by a chain of additions"
)


def measure(*, quick: bool = False, most_bytes: int | None = None, say: Say) -> dict[str, Any]:
    """Latency by footprint: the section `latency`.

    Parameters
    ----------
    quick : one pass, coarser, to 64 MiB: about a second instead of half a minute
    most_bytes : the largest footprint; default 1 GiB, or a quarter of what memory is free
    say : told what is being measured

    Returns
    -------
    `curves` by name (lists of `Point`), `levels` of the random curve with huge pages, `knees_bytes` (where
    the levels end: by the parallel curve, whose quick rounds leave neighbours of a shared cache little
    time), `translation` (levels of the page curves), `huge_share` granted, `step_left` (see there;
    null when quick), and what the system `reported`
    """
    from trimtab._native import micro

    # A tenth on top for the order of the ring.
    most = min(most_bytes or MOST_BYTES, (CLOSE_BYTES if quick else MOST_BYTES), int(free_bytes() / 4))
    close = min(most, CLOSE_BYTES)
    curves: dict[str, Curve] = {}
    granted = 0.0
    for number in range(1 if quick else 3):
        for pages in ("2m", "4k"):
            say(f"memory, {pages} pages, pass {number + 1}")
            kinds = {"random": Curve(True), "parallel": Curve(True, cpus=tuple(processors()[:64]))}
            if not quick:
                kinds |= {"stride": Curve(False), "page": Curve(True, stride=PAGE)}
            chase = micro.Chase(most if number == 0 else close, pages == "2m")
            for kind, fresh in kinds.items():
                curve = curves.setdefault(f"{kind}_{pages}", fresh)
                least = PAGE if kind != "page" else 8 * PAGE
                for size in footprints(close, 2 if quick else 4, least):
                    curve.take(chase, size, 5, 20_000)
                if number == 0 and kind in ("random", "stride"):
                    for size in (s for s in footprints(most, 1) if s > close):
                        curve.take(chase, size, 5, 40_000)
            if pages == "2m":
                granted = chase.huge_bytes / chase.nbytes
    points = {name: curve.points() for name, curve in curves.items()}

    def by_size(name: str) -> dict[int, float]:
        return {point.bytes: point.ns for point in points.get(name, ())}

    return {
        "curves": {name: [asdict(point) for point in some] for name, some in points.items()},
        "levels": [level.as_dict() for level in levels(points["random_2m"])],
        "knees_bytes": [level.knee_bytes for level in levels(points["parallel_2m"])[:-1]],
        "translation": {
            name: [level.as_dict() for level in levels(some)]
            for name, some in points.items()
            if name.startswith("page")
        },
        "huge_share": granted,
        "step_left": step_left(by_size("page_4k"), by_size("page_2m")),
        "reported": caches_bytes(),
        "most_bytes": most,
        "method": METHOD,
    }


def step_left(small: Mapping[int, float], large: Mapping[int, float]) -> float | None:
    """Share of the first step of the address translation that huge pages leave.

    Its buffer holds what the smaller of two pages covers, the system's and the hypervisor's. Beyond a few
    dozen small pages it is full while all their lines still lie in the first cache, so the step there is
    translation alone: 0 where huge pages reach the processor, 1 where the hypervisor maps small ones
    behind them.

    Parameters
    ----------
    small, large : footprint -> ns of a hop from page to page, with 4 KiB and with 2 MiB pages

    Returns
    -------
    None where the curves do not reach so far, or there is no step
    """
    before, after = 32 * PAGE, 256 * PAGE
    if not all(size in curve for size in (before, after) for curve in (small, large)):
        return None
    step = small[after] - small[before]
    if step < 0.2 * small[before]:
        return None
    return min(1.0, max(0.0, (large[after] - large[before]) / step))


def free_bytes(
    meminfo: Path = Path("/proc/meminfo"), groups: Sequence[Path] = (Path("/sys/fs/cgroup"),)
) -> int:
    """Memory that may be taken: what the system says is available, less where a group's limit ends it."""
    free = describe().memory_bytes // 2
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except OSError:
        pass
    for group in groups:
        try:
            limit = (group / "memory.max").read_text(encoding="ascii").strip()
            used = int((group / "memory.current").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if limit.isdecimal():
            free = min(free, max(0, int(limit) - used))
    return free


def caches_bytes() -> dict[str, int]:
    """Sizes of the data caches as the system reports them, by level, of the first processor."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    found: dict[str, int] = {}
    for name, text in describe().caches.items():
        if not name.endswith("i") and text[:-1].isdecimal() and text[-1] in units:
            found[name[:2]] = int(text[:-1]) * units[text[-1]]
    return found
