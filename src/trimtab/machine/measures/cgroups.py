"""The control groups a process is in, versions 1 and 2: every group from its own up to the top one.

A limit of any of them holds, so whoever reads one takes the least of all. Knows files and their places, and
nothing of what their values are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

UNIFIED = ""
"""The one hierarchy of version 2, among the names of version 1's controllers."""


def folders(
    controller: str, root: Path = Path("/"), process: int | str = "self"
) -> Iterator[tuple[bool, Path]]:
    """Folders of the groups that bind a process for a controller, the innermost first.

    Parameters
    ----------
    controller : `memory`, `cpu`, `cpuset`, `pids`, `io` ...
    root : where `proc` and `sys` lie; tests have their own

    Yields
    ------
    whether the folder is of version 2, and the folder; it may lack the controller's files
    """
    try:
        lines = (root / f"proc/{process}/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        unified = controllers == UNIFIED
        if unified:
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
            if not top.is_dir():  # mounted under the names of all its controllers
                top = root / "sys/fs/cgroup" / controllers
        else:
            continue
        group = top / path.lstrip("/")
        # Inside a container the path may be that of the host: then the group is the top one.
        for folder in dict.fromkeys((group, *group.parents, top)):
            if folder == top or top in folder.parents:
                yield unified, folder


def number(path: Path) -> int | None:
    """The whole number in a file; None where there is no file, or no limit (`max`, or -1)."""
    try:
        value = int(path.read_text(encoding="ascii", errors="replace").split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return None if value < 0 else value


def memory_limits(root: Path = Path("/")) -> Iterator[tuple[int, int]]:
    """Each memory limit of the groups this process is in, and the bytes that count against it.

    Bytes that only cache files are not counted: the kernel takes them back first.
    """
    for unified, folder in folders("memory", root):
        # Above `high` the kernel slows the group down until nothing goes on: for us that is a limit too.
        names = ("memory.max", "memory.high") if unified else ("memory.limit_in_bytes",)
        used = number(folder / ("memory.current" if unified else "memory.usage_in_bytes"))
        for name in names:
            limit = number(folder / name)
            if limit is not None and used is not None:
                yield limit, used - _file_cache(folder / "memory.stat")


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that the groups allow at most; None without a limit."""
    allowed = []
    for unified, folder in folders("cpu", root):
        if unified:
            try:
                quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()[:2]
                allowed.append(int(quota) / int(period))
            except (OSError, ValueError, ZeroDivisionError):  # no such file, or `max`
                continue
        elif (quota_us := number(folder / "cpu.cfs_quota_us")) and (
            period_us := number(folder / "cpu.cfs_period_us")
        ):
            allowed.append(quota_us / period_us)
    return min(allowed, default=None)


def processes_limit(root: Path = Path("/")) -> int | None:
    """Processes and threads that the groups allow at most; None without a limit."""
    found = (number(folder / "pids.max") for _, folder in folders("pids", root))
    return min((limit for limit in found if limit is not None), default=None)


def _file_cache(stat: Path) -> int:
    """Bytes that a control group counts as used but that only cache files."""
    try:
        values = dict(line.split() for line in stat.read_text(encoding="ascii").splitlines())
        return int(values.get("total_inactive_file") or values.get("inactive_file") or 0)
    except (OSError, ValueError):
        return 0
