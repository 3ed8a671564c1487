"""A made-up machine with round figures, for tests of what reads profiles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from trimtab.machine.profile import Profile, Section

MACHINE = {
    "processor": "made up",
    "caches": {"L1d": "32K", "L1i": "32K", "L2": "1024K", "L3": "32768K"},
}


def stamp(data: dict[str, Any], days_ago: float = 0, **more: float) -> Section:
    return Section(data, (datetime.now(UTC) - timedelta(days=days_ago)).isoformat(timespec="seconds"), **more)


def made_profile(**sections: Section) -> Profile:
    """100 Gop/s of int8 a thread, half of that in bf16, a quarter in float32; 10 GB/s from memory."""
    peaks = [
        {"unit": unit, "class": kind, "threads": threads, "median": share * scale * 100e9 * threads, "n": 5}
        for threads in (1, 2)
        for unit, share in (("int8", 1.0), ("bf16", 0.5), ("float32", 0.25))
        for kind, scale in (("register", 1.0), ("one row", 0.25), ("many rows", 0.8))
    ]
    levels = ((16 << 10, 200e9), (512 << 10, 100e9), (16 << 20, 40e9), (256 << 20, 10e9))
    rates = [
        {
            "pattern": pattern,
            "threads": threads,
            "working_set_bytes": size,
            "bytes_per_s": rate * threads * share,
        }
        for threads in (1, 2)
        for pattern, share in (("read", 1.0), ("triad", 0.75))
        for size, rate in levels
    ]
    chase = [{"bytes": size, "ns": ns} for size, ns in ((16 << 10, 1.0), (256 << 20, 100.0))]
    parts = {
        "peak": stamp({"rows": peaks}),
        "bandwidth": stamp({"rows": rates, "region_s": {"fork-join": {"2": 1e-6}}}),
        "latency": stamp({"curves": {"random_2m": chase, "random_4k": chase[:1]}}),
    } | sections
    return Profile(MACHINE, parts)
