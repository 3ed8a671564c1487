"""Limits: what is written for each version of control groups, what is refused, and that they really hold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.errors import Unsupported
from trimtab.evaluate.device.groups import Group, ResourceLimits, make_group
from trimtab.evaluate.device.plan import Limits


def version_1(root: Path) -> Path:
    """A tree of version 1 as a container sees it: its own path is the host's."""
    lines = [f"{index}:{name}:/host/path" for index, name in enumerate(("memory", "cpu", "cpuset", "blkio"))]
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("\n".join(lines) + "\n")
    for name in ("memory", "cpu", "cpuset", "blkio"):
        (root / "sys/fs/cgroup" / name).mkdir(parents=True)
    (root / "sys/fs/cgroup/cpuset/cpuset.cpus").write_text("0-3\n")
    (root / "sys/fs/cgroup/cpuset/cpuset.mems").write_text("0\n")
    return root / "sys/fs/cgroup"


def test_version_1_is_written_controller_by_controller(tmp_path: Path) -> None:
    top = version_1(tmp_path)
    group = make_group("trial", tmp_path)
    assert isinstance(group, Group)
    assert group.version == 1
    limits = Limits(memory_bytes=10**8, cpus=0.5, cpuset="1", read_bytes_per_s=10**6)
    group.apply(limits, "8:0")

    def read(path: str) -> str:
        return (top / path).read_text()

    assert read("memory/trial/memory.limit_in_bytes") == "100000000"
    assert read("memory/trial/memory.memsw.limit_in_bytes") == "100000000"
    assert read("cpu/trial/cpu.cfs_quota_us") == "50000"
    assert read("cpuset/trial/cpuset.cpus") == "1"
    assert read("cpuset/trial/cpuset.mems") == "0"
    assert read("blkio/trial/blkio.throttle.read_bps_device") == "8:0 1000000"
    (top / "memory/trial/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert group.kills() == 2


def test_version_2_is_one_folder(tmp_path: Path) -> None:
    top = tmp_path / "sys/fs/cgroup"
    top.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (top / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert isinstance(make_group("trial", tmp_path), ResourceLimits)  # nothing was delegated
    group = Group(2, dict.fromkeys(("memory", "cpu", "cpuset", "io"), top))
    (top / "memory.swap.max").write_text("max")
    group.apply(Limits(memory_bytes=10**8, cpus=1.5, cpuset="0-1", read_bytes_per_s=10), "8:0")
    assert (top / "memory.max").read_text() == "100000000"
    assert (top / "memory.swap.max").read_text() == "0"
    assert (top / "cpu.max").read_text() == "150000 100000"
    assert (top / "io.max").read_text() == "8:0 rbps=10"
    (top / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    (top / "memory.peak").write_text("123\n")
    assert (group.kills(), group.peak_bytes()) == (1, 123)


def test_without_groups_it_says_what_the_limit_is_and_refuses_what_it_cannot(tmp_path: Path) -> None:
    limits = make_group("trial", tmp_path)
    assert isinstance(limits, ResourceLimits)
    assert "address space" in limits.kind
    with pytest.raises(Unsupported, match="cpus"):
        limits.apply(Limits(cpus=1))
    first = min(os.sched_getaffinity(0))
    limits.apply(Limits(memory_bytes=300 << 20, cpuset=str(first)))
    show = "import os, resource; print(os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_AS)[0])"
    command, more = limits.wrapped([sys.executable, "-c", show])
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more}, check=True)
    assert ended.stdout.split() == [f"{{{first}}}", str(300 << 20)]


@pytest.fixture
def group() -> Iterator[Group]:
    made = make_group(f"trimtab-test-{os.getpid()}")
    if not isinstance(made, Group):
        pytest.skip("no control group can be made here")
    yield made
    made.close()


EATS = "kept = []\nfor step in range(40): kept.append(bytearray(b'1') * (8 << 20))\nprint('all')"


def run(group: Group, code: str) -> subprocess.CompletedProcess[str]:
    command, more = group.wrapped([sys.executable, "-c", code])
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **more}, check=False, timeout=60
    )


def test_a_real_group_ends_what_takes_too_much(group: Group) -> None:
    group.apply(Limits(memory_bytes=100 << 20))
    assert run(group, EATS).returncode == -9
    assert group.kills() >= 1
    assert run(group, "print('small')").stdout == "small\n"


def test_a_real_group_lets_through_what_fits_and_counts_it(group: Group) -> None:
    group.apply(Limits(memory_bytes=500 << 20, cpuset=str(min(os.sched_getaffinity(0)))))
    assert run(group, EATS).stdout == "all\n"
    assert group.kills() == 0
    assert (group.peak_bytes() or 0) > 300 << 20
    assert run(group, "import os; print(len(os.sched_getaffinity(0)))").stdout == "1\n"


def test_a_quota_that_changes_while_it_runs(group: Group) -> None:
    """Processor time, not wall time, is compared: another load on the machine only lowers it."""
    group.apply(Limits(cpus=0.2))
    busy = (
        "import time\nbegin, used = time.monotonic(), time.process_time()\n"
        "while time.monotonic() - begin < 1: pass\nprint(time.process_time() - used)"
    )
    assert float(run(group, busy).stdout) < 0.5
    group.set_cpus(0.05)
    assert float(run(group, busy).stdout) < 0.35
