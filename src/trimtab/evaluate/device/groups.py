"""Limits that the system holds a process to: control groups of version 2 or 1, or else resource limits.

A group is made below the one this process is in, so that a container's own limits keep holding, and removed
again. What the system here cannot limit is refused by name; a limit that holds something else than was asked
for (address space for resident memory) says so in `kind`. Knows no engine.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trimtab.errors import Unsupported
from trimtab.evaluate.device.plan import Limits

PERIOD_US = 100_000
_V1 = ("memory", "cpu", "cpuset", "blkio")

# Joins the groups, then becomes the command: nothing of it ever ran outside.
_JOIN = 'for f in $TRIMTAB_GROUPS; do echo $$ > "$f" || exit 97; done; unset TRIMTAB_GROUPS; exec "$@"'


class Group:
    """A set of folders of the control group tree, one a controller in version 1, one for all in version 2.

    Use `make_group`. `close` when the processes are gone.
    """

    def __init__(self, version: int, folders: Mapping[str, Path]) -> None:
        self.version, self._folders = version, dict(folders)

    @property
    def kind(self) -> str:
        return f"control group v{self.version}"

    def wrapped(self, command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """The command that runs inside, and what its environment needs."""
        files = dict.fromkeys(str(folder / "cgroup.procs") for folder in self._folders.values())
        return ["/bin/sh", "-c", _JOIN, "sh", *command], {"TRIMTAB_GROUPS": " ".join(files)}

    def apply(self, limits: Limits, disk: str | None = None) -> None:
        """Set limits; `disk` is the `major:minor` that reads are limited on."""
        if limits.memory_bytes is not None:
            self._limit_memory(limits.memory_bytes)
        if limits.cpus is not None:
            self.set_cpus(limits.cpus)
        if limits.cpuset is not None:
            _write(self._folders["cpuset"] / "cpuset.cpus", limits.cpuset)
        if limits.read_bytes_per_s is not None:
            if disk is None:
                raise Unsupported("reads are limited on a whole disk, and the model's file is on none")
            if self.version == 2:
                _write(self._folders["io"] / "io.max", f"{disk} rbps={limits.read_bytes_per_s}")
            else:
                name = "blkio.throttle.read_bps_device"
                _write(self._folders["blkio"] / name, f"{disk} {limits.read_bytes_per_s}")

    def set_cpus(self, cpus: float) -> None:
        """Processor seconds a second of wall time; may be changed while it runs."""
        quota = max(1000, round(cpus * PERIOD_US))
        if self.version == 2:
            _write(self._folders["cpu"] / "cpu.max", f"{quota} {PERIOD_US}")
        else:
            _write(self._folders["cpu"] / "cpu.cfs_period_us", str(PERIOD_US))
            _write(self._folders["cpu"] / "cpu.cfs_quota_us", str(quota))

    def kills(self) -> int:
        """How many processes the kernel has ended for want of memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return _counter(self._folders.get("memory"), name, "oom_kill")

    def peak_bytes(self) -> int | None:
        """Highest memory by the group's count; None where it keeps none."""
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        folder = self._folders.get("memory")
        try:
            return None if folder is None else int((folder / name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def close(self, patience_s: float = 5.0) -> None:
        """Remove it; what is left of its processes is ended first."""
        deadline = time.monotonic() + patience_s
        for folder in dict.fromkeys(self._folders.values()):
            while folder.exists():
                with contextlib.suppress(OSError):
                    for line in (folder / "cgroup.procs").read_text(encoding="ascii").split():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(line), 9)
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)

    def _limit_memory(self, limit: int) -> None:
        folder = self._folders["memory"]
        if self.version == 2:
            _write(folder / "memory.max", str(limit))
            if (folder / "memory.swap.max").exists():
                _write(folder / "memory.swap.max", "0")
            return
        _write(folder / "memory.limit_in_bytes", str(limit))
        _write(folder / "memory.swappiness", "0")
        # Memory and swap together: the same number means no swap. Absent where swap is not counted.
        with contextlib.suppress(OSError):
            _write(folder / "memory.memsw.limit_in_bytes", str(limit))


class ResourceLimits:
    """What a process may be held to without control groups: its address space and its processors."""

    kind = "address space limit (RLIMIT_AS), not resident memory"

    def __init__(self) -> None:
        self._limits = Limits()

    def apply(self, limits: Limits, disk: str | None = None) -> None:
        for name in ("cpus", "read_bytes_per_s"):
            if getattr(limits, name) is not None:
                raise Unsupported(
                    f"`{name}` needs a control group, and none can be made here",
                    "run it as root, or leave it out",
                )
        self._limits = limits

    def wrapped(self, command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        start = (
            "import os, resource, sys\n"
            "memory, processors = int(sys.argv[1]), sys.argv[2]\n"
            "if memory: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))\n"
            "if processors: os.sched_setaffinity(0, set(map(int, processors.split(','))))\n"
            "os.execvp(sys.argv[3], sys.argv[3:])\n"
        )
        processors = (
            "" if self._limits.cpuset is None else ",".join(map(str, processors_of(self._limits.cpuset)))
        )
        return [sys.executable, "-c", start, str(self._limits.memory_bytes or 0), processors, *command], {}

    def set_cpus(self, cpus: float) -> None:
        raise Unsupported("a throttle curve needs a control group, and none can be made here")

    def kills(self) -> int:
        return 0

    def peak_bytes(self) -> int | None:
        return None

    def close(self, patience_s: float = 5.0) -> None:
        """Nothing is held."""


def make_group(name: str, root: Path = Path("/")) -> Group | ResourceLimits:
    """A new group below this process's own; resource limits where none can be made.

    Parameters
    ----------
    name : of the group; must be new
    root : where `proc` and `sys` are (tests)
    """
    top, own = root / "sys/fs/cgroup", _own_groups(root)
    if "" in own and (top / "cgroup.controllers").exists():
        return _version_2(top / own[""].lstrip("/"), name) or ResourceLimits()
    made: dict[str, Path] = {}
    for controller in _V1:
        if controller not in own:
            continue
        # Inside a container the path may be the host's: then the group is the top one.
        base = next(
            (
                place
                for place in (top / controller / own[controller].lstrip("/"), top / controller)
                if place.is_dir()
            ),
            None,
        )
        if base is None:
            continue
        try:
            (base / name).mkdir()
        except OSError:
            continue
        made[controller] = base / name
        if controller == "cpuset":  # empty at first, and nothing can run in an empty one
            for file in ("cpuset.cpus", "cpuset.mems"):
                with contextlib.suppress(OSError):
                    _write(base / name / file, (base / file).read_text(encoding="ascii").strip())
    if {"memory", "cpu"} <= set(made):
        return Group(1, made)
    Group(1, made).close()
    return ResourceLimits()


def processors_of(text: str) -> list[int]:
    """Numbers in `0-2,5`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def disk_of(path: Path) -> str | None:
    """`major:minor` of the disk a file is on; None where it is on no single one."""
    number = os.stat(path).st_dev
    if os.major(number) == 0:
        return None
    here = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if (here / "partition").exists():  # limits are the whole disk's
        return (here.resolve().parent / "dev").read_text(encoding="ascii").strip()
    return f"{os.major(number)}:{os.minor(number)}"


def _version_2(own: Path, name: str) -> Group | None:
    """A group beside this process's own leaf, which may not have both processes and controllers."""
    for parent in (own, own.parent):
        folder = parent / name
        try:
            wanted = {"memory", "cpu", "cpuset", "io"} & set(
                (parent / "cgroup.controllers").read_text(encoding="ascii").split()
            )
            for each in wanted:
                with contextlib.suppress(OSError):
                    _write(parent / "cgroup.subtree_control", f"+{each}")
            folder.mkdir()
            given = set((folder / "cgroup.controllers").read_text(encoding="ascii").split())
        except OSError:
            continue
        if {"memory", "cpu"} <= given:
            return Group(2, dict.fromkeys(("memory", "cpu", "cpuset", "io"), folder))
        folder.rmdir()
    return None


def _own_groups(root: Path) -> dict[str, str]:
    """Controller -> path of this process's group; version 2 is the controller without a name."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            for controller in controllers.split(","):
                found[controller] = path
    return found


def _counter(folder: Path | None, file: str, key: str) -> int:
    if folder is not None:
        with contextlib.suppress(OSError, ValueError):
            for line in (folder / file).read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(" ")
                if name == key:
                    return int(value)
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="ascii")
    except OSError as error:
        raise Unsupported(
            f"the system does not take the limit `{text}` in {path.name}: {error.strerror}"
        ) from None
