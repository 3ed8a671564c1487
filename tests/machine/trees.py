"""Made-up /proc and /sys trees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def plant(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below `root`; parents are made."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def server(sockets: int = 2, cores: int = 2, ways: int = 2) -> dict[str, str]:
    """The files of a machine whose threads of a core are numbered far apart, as on many servers."""
    files: dict[str, str] = {}
    whole = sockets * cores
    for socket in range(sockets):
        mine = [core for core in range(whole) if core // cores == socket]
        shared = ",".join(str(core + whole * way) for way in range(ways) for core in mine)
        files[f"sys/devices/system/node/node{socket}/cpulist"] = shared + "\n"
        files[f"sys/devices/system/node/node{socket}/distance"] = " ".join(
            "10" if other == socket else "21" for other in range(sockets)
        )
        files[f"sys/devices/system/node/node{socket}/meminfo"] = f"Node {socket} MemTotal: 1048576 kB\n"
        for core in mine:
            twins = ",".join(str(core + whole * way) for way in range(ways))
            for way in range(ways):
                cpu = f"sys/devices/system/cpu/cpu{core + whole * way}"
                files[f"{cpu}/topology/physical_package_id"] = f"{socket}\n"
                files[f"{cpu}/topology/core_id"] = f"{core - mine[0]}\n"  # counted anew in each socket
                for index, (level, kind, size, sharing) in enumerate(
                    [
                        (1, "Data", "48K", twins),
                        (1, "Instruction", "32K", twins),
                        (3, "Unified", "64M", shared),
                    ]
                ):
                    cache = f"{cpu}/cache/index{index}"
                    files[f"{cache}/level"] = f"{level}\n"
                    files[f"{cache}/type"] = f"{kind}\n"
                    files[f"{cache}/size"] = f"{size}\n"
                    files[f"{cache}/shared_cpu_list"] = f"{sharing}\n"
                    files[f"{cache}/coherency_line_size"] = "64\n"
    files["sys/devices/system/cpu/online"] = f"0-{whole * ways - 1}\n"
    return files
