"""What a process may take here: the limits that control groups, the system and the user's shell set.

A limit holds wherever it is set, so the nearest of all is reported beside each one's own. Read, not timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimtab.machine.measures import cgroups
from trimtab.machine.measures.topology import meminfo, numbers

_RLIMITS = {  # name in the profile -> name in `resource`, unit in the name
    "address_space_bytes": "RLIMIT_AS",
    "data_bytes": "RLIMIT_DATA",
    "resident_bytes": "RLIMIT_RSS",
    "locked_bytes": "RLIMIT_MEMLOCK",
    "stack_bytes": "RLIMIT_STACK",
    "file_bytes": "RLIMIT_FSIZE",
    "open_files": "RLIMIT_NOFILE",
    "processes": "RLIMIT_NPROC",
    "cpu_s": "RLIMIT_CPU",
    "core_bytes": "RLIMIT_CORE",
}


def measure(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The section `limits` of the profile; takes milliseconds, quick or not."""
    say("reading limits in force")
    return read()


def read(root: Path = Path("/")) -> dict[str, Any]:
    """The limits in force for this process.

    Returns
    -------
    `memory`: what the machine has, its groups' least limit and which folder sets it, and what all leave;
    `processors`: how many, by affinity, cpuset and quota, and the least; `swap`, `ulimits`, `processes`,
    `overcommit`. None: no limit, or the system does not say
    """
    return {
        "memory": _memory(root),
        "processors": _processors(root),
        "swap": {"total_bytes": meminfo("SwapTotal", root), "free_bytes": meminfo("SwapFree", root)},
        "processes": cgroups.processes_limit(root),
        "ulimits": _ulimits(),
        "overcommit": cgroups.number(root / "proc/sys/vm/overcommit_memory"),
    }


def _memory(root: Path) -> dict[str, Any]:
    total, available = meminfo("MemTotal", root), meminfo("MemAvailable", root)
    found = []
    for unified, folder in cgroups.folders("memory", root):
        for name in ("memory.max", "memory.high") if unified else ("memory.limit_in_bytes",):
            limit = cgroups.number(folder / name)
            # Version 1 writes no limit as an enormous one.
            if limit is not None and (total is None or limit < total):
                found.append((limit, f"{folder.relative_to(root)}/{name}"))
    least, where = min(found, default=(None, None))
    room = [
        max(0, limit - used) for limit, used in cgroups.memory_limits(root) if total is None or limit < total
    ]
    room += [] if available is None else [available]
    limits = [limit for limit in (total, least) if limit is not None]
    return {
        "total_bytes": total,
        "group_bytes": least,
        "group": where,
        "least_bytes": min(limits, default=None),
        "room_bytes": min(room, default=None),
    }


def _processors(root: Path) -> dict[str, Any]:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    sets = []
    for _, folder in cgroups.folders("cpuset", root):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            try:
                found = numbers((folder / name).read_text(encoding="ascii"))
            except (OSError, ValueError):
                continue
            if found:
                sets.append(len(found))
                break
    quota, cpuset = cgroups.cpu_quota(root), min(sets, default=None)
    known = [value for value in (affinity, cpuset, quota) if value is not None]
    return {
        "installed": os.cpu_count(),
        "affinity": affinity,
        "cpuset": cpuset,
        "quota": quota,
        "least": min(known, default=None),
    }


def _ulimits() -> dict[str, int | None]:
    try:
        import resource
    except ImportError:  # not on Windows
        return {}
    found = {}
    for name, key in _RLIMITS.items():
        if hasattr(resource, key):
            soft = resource.getrlimit(getattr(resource, key))[0]
            found[name] = None if soft == resource.RLIM_INFINITY else soft
    return found
