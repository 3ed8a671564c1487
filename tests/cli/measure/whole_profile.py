"""A profile in which every section stands that can be drawn, with made-up figures."""

from __future__ import annotations

from made_profile import made_profile, stamp

from trimtab.machine.measures import limits, topology
from trimtab.machine.profile import Profile

HOSTILE = "<script>alert(1)</script> & <img src=x onerror=alert(2)>"


def whole_profile(name: str = "made up") -> Profile:
    disk = [
        {
            "op": op, "size_bytes": size, "depth": depth, "bytes_per_s": 1e8 * depth * (1 + size / 2**20),
            "iqr": 1e6, "n": 5, "operations_per_s": 1e3, "latency_s": 1e-4, "latency_p99_s": 1e-3,
        }
        for op in ("read", "write") for size in (4096, 65536, 1 << 20) for depth in (1, 4, 16)
    ]  # fmt: skip
    process = [{"name": "python", "what": "", "seconds": 0.02, "iqr": 0.001, "n": 3}]
    sync = [
        {"name": "syscall", "ns": 80.0, "width_bits": 0},
        {"name": "store_mov", "ns": 1.0, "width_bits": 64},
    ]
    gpu = {
        "present": True, "name": name,
        "rows": [{"name": "matmul bf16", "unit": "operations/s", "median": 7e14, "iqr": 0, "n": 3},
                 {"name": "launch", "unit": "s", "median": 4e-6, "iqr": 0, "n": 3}],
    }  # fmt: skip
    found = made_profile(
        topology=stamp({**topology.read(), "processor": name}),
        limits=stamp(limits.read()),
        disk=stamp({"direct": True, "why_not_direct": None, "rows": disk}, others=0.5),
        process=stamp({"rows": process}),
        sync=stamp({"rows": sync}),
        gpu=stamp(gpu),
    )
    peak = found.sections["peak"]
    shape = {"outputs": 1024, "inputs": 576, "rows": {"one row": 1, "few rows": 8, "many rows": 128}}
    light = [
        {**row, "unit": "q4"}
        for row in peak.data["rows"]
        if row["unit"] == "int8" and row["class"] in shape["rows"]
    ]
    found = found.with_section("peak", stamp({"rows": [*peak.data["rows"], *light], "shape": shape}))
    return Profile({**found.machine, "processor": name}, found.sections)
