"""What this machine is made of, as the system tells it: processors, caches, memory nodes, pages, hypervisor.

Nothing is timed here. All is read below one root folder, so that a test can hand over another machine's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimtab.machine.probe import describe


def measure(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The section `topology` of the profile; takes milliseconds, quick or not."""
    say("reading what the system says")
    return read()


def read(root: Path = Path("/")) -> dict[str, Any]:
    """What the system says about its hardware.

    Returns
    -------
    `sockets`, `cores`, `threads`, `threads_per_core`; `cpus`, the place of each; `numa`, the nodes;
    `caches`, one entry a kind with its instances; `features`; `pages`; `hypervisor`. A number that is not
    told is None.
    """
    cpus = [_cpu(folder) for folder in _numbered(root / "sys/devices/system/cpu", "cpu")]
    online = numbers(_text(root / "sys/devices/system/cpu/online"))
    cpus = [cpu for cpu in cpus if not online or cpu["cpu"] in online]
    cores = {(cpu["socket"], cpu["core"]) for cpu in cpus}
    here = describe() if root == Path("/") else None
    info = cpuinfo(root)
    return {
        "processor": here.processor if here else info.get("model name", ""),
        "sockets": len({cpu["socket"] for cpu in cpus}) or None,
        "cores": len(cores) or None,
        "threads": len(cpus) or None,
        "threads_per_core": len(cpus) // len(cores) if cores else None,
        "usable": here.usable if here else None,
        "cpus": cpus,
        "numa": _nodes(root),
        "caches": _caches(root, [cpu["cpu"] for cpu in cpus]),
        "features": list(here.features) if here else info.get("flags", "").split(),
        "mhz": _mhz(root, info),
        "pages": _pages(root),
        "memory_bytes": meminfo("MemTotal", root),
        "hypervisor": _hypervisor(root, info),
        "system": here.system if here else "",
    }


def meminfo(name: str, root: Path = Path("/")) -> int | None:
    """A line of /proc/meminfo in bytes (or as it is, for counts of pages)."""
    found = re.search(rf"^{re.escape(name)}:\s*(\d+)( kB)?", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * (1024 if found[2] else 1) if found else None


def cpuinfo(root: Path = Path("/")) -> dict[str, str]:
    """What /proc/cpuinfo says of the first processor."""
    lines = _text(root / "proc/cpuinfo").partition("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def numbers(text: str) -> list[int]:
    """The numbers of a list as the kernel writes it, `0-3,8`; of anything else, none."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if match is None:
            return []
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def _cpu(folder: Path) -> dict[str, int]:
    place = folder / "topology"
    number = int(folder.name[3:])
    socket, core = _number(place / "physical_package_id"), _number(place / "core_id")
    # A system that tells nothing is taken to have one socket, and a core for each processor.
    return {"cpu": number, "socket": socket or 0, "core": number if core is None else core}


def _caches(root: Path, cpus: list[int]) -> list[dict[str, Any]]:
    """One entry a level and kind: size of one instance, how many there are, which processors share each."""
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for cpu in cpus:
        for index in _numbered(root / f"sys/devices/system/cpu/cpu{cpu}/cache", "index"):
            level, size = _number(index / "level"), _size(_text(index / "size"))
            if level is None or size is None:
                continue
            kind = _text(index / "type") or "Unified"
            entry = found.setdefault(
                (level, kind),
                {
                    "name": f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, ""),
                    "level": level, "kind": kind.lower(), "bytes": size,
                    "line_bytes": _number(index / "coherency_line_size"),
                    "ways": _number(index / "ways_of_associativity"),
                    "shared_by": [],
                },
            )  # fmt: skip
            sharing = [each for each in numbers(_text(index / "shared_cpu_list")) if each in cpus] or [cpu]
            if sharing not in entry["shared_by"]:
                entry["shared_by"].append(sharing)
    ordered = [found[key] for key in sorted(found)]
    return [entry | {"instances": len(entry["shared_by"])} for entry in ordered]


def _nodes(root: Path) -> list[dict[str, Any]]:
    nodes = []
    for folder in _numbered(root / "sys/devices/system/node", "node"):
        total = re.search(r"MemTotal:\s*(\d+) kB", _text(folder / "meminfo"))
        nodes.append(
            {
                "node": int(folder.name[4:]),
                "cpus": numbers(_text(folder / "cpulist")),
                "memory_bytes": int(total[1]) * 1024 if total else None,
                "distances": [int(word) for word in _text(folder / "distance").split() if word.isdecimal()],
            }
        )
    return nodes


def _pages(root: Path) -> dict[str, Any]:
    huge = {}
    for folder in sorted((root / "sys/kernel/mm/hugepages").glob("hugepages-*kB")):
        size = re.fullmatch(r"hugepages-(\d+)kB", folder.name)
        if size:
            huge[str(int(size[1]) * 1024)] = {
                "reserved": _number(folder / "nr_hugepages"), "free": _number(folder / "free_hugepages"),
            }  # fmt: skip
    chosen = re.search(r"\[(\w+)\]", _text(root / "sys/kernel/mm/transparent_hugepage/enabled"))
    return {
        "base_bytes": os.sysconf("SC_PAGE_SIZE"),
        "huge": huge,
        "transparent": chosen[1] if chosen else None,
        "transparent_bytes": _number(root / "sys/kernel/mm/transparent_hugepage/hpage_pmd_size"),
    }


def _hypervisor(root: Path, info: dict[str, str]) -> dict[str, Any]:
    """Whether this is a virtual machine or a container, and whose, as far as it can be seen from inside."""
    dmi = " ".join(_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    words = info.get("flags", "").split()
    container = next(
        (
            name
            for name, mark in (("docker", ".dockerenv"), ("podman", "run/.containerenv"))
            if (root / mark).exists()
        ),
        None,
    )
    if container is None and re.search(r"docker|kubepods|lxc|containerd", _text(root / "proc/1/cgroup")):
        container = "container"
    return {
        "virtual": "hypervisor" in words,
        "vendor": dmi.strip() or _text(root / "sys/hypervisor/type") or None,
        "container": container,
    }


def _mhz(root: Path, info: dict[str, str]) -> float | None:
    khz = _number(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    if khz:
        return khz / 1000
    try:
        return float(info["cpu MHz"])
    except (KeyError, ValueError):
        return None


def _numbered(folder: Path, prefix: str) -> list[Path]:
    """Sub-folders `prefix0`, `prefix1` ... in the order of their numbers."""
    found = [each for each in folder.glob(f"{prefix}*") if each.name[len(prefix) :].isdecimal()]
    return sorted(found, key=lambda each: int(each.name[len(prefix) :]))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None


def _size(text: str) -> int | None:
    match = re.fullmatch(r"(\d{1,12})([KMG]?)", text)
    return int(match[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[match[2]] if match else None
