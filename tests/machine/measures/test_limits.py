"""Limits of made-up control groups: the least of all that hold, wherever it is set."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import plant

from trimtab.machine.measures import cgroups, limits

MEMORY = "MemTotal: 4000000 kB\nMemAvailable: 3000000 kB\nSwapTotal: 1000 kB\nSwapFree: 500 kB\n"
TOP = "sys/fs/cgroup"


def test_the_least_of_nested_groups_holds(tmp_path: Path) -> None:
    found = limits.read(
        plant(
            tmp_path,
            {
                "proc/meminfo": MEMORY,
                "proc/self/cgroup": "0::/a/b/c\n",
                f"{TOP}/a/memory.max": "900000000\n",
                f"{TOP}/a/memory.current": "100000000\n",
                f"{TOP}/a/b/memory.max": "max\n",
                f"{TOP}/a/b/memory.high": "500000000\n",
                f"{TOP}/a/b/memory.current": "50000000\n",
                f"{TOP}/a/b/c/memory.max": "700000000\n",
                f"{TOP}/a/b/c/memory.current": "50000000\n",
                f"{TOP}/a/cpu.max": "150000 100000\n",
                f"{TOP}/a/b/cpu.max": "max 100000\n",
                f"{TOP}/a/b/c/cpu.max": "300000 100000\n",
                f"{TOP}/a/cpuset.cpus.effective": "0-7\n",
                f"{TOP}/a/b/c/cpuset.cpus.effective": "2,4-5\n",
                f"{TOP}/a/pids.max": "max\n",
                f"{TOP}/a/b/pids.max": "512\n",
            },
        )
    )
    assert found["memory"] == {
        "total_bytes": 4_096_000_000,
        "group_bytes": 500_000_000,
        "group": "sys/fs/cgroup/a/b/memory.high",
        "least_bytes": 500_000_000,
        "room_bytes": 450_000_000,
    }
    processors = found["processors"]
    assert (processors["quota"], processors["cpuset"]) == (1.5, 3)
    assert processors["least"] == min(1.5, processors["affinity"])
    assert found["processes"] == 512
    assert found["swap"] == {"total_bytes": 1_024_000, "free_bytes": 512_000}


def test_version_1_with_controllers_that_share_a_folder(tmp_path: Path) -> None:
    found = limits.read(
        plant(
            tmp_path,
            {
                "proc/meminfo": MEMORY,
                "proc/self/cgroup": "9:memory:/x\n4:cpu,cpuacct:/y/z\n2:cpuset:/y\n0::/\n",
                f"{TOP}/memory/memory.limit_in_bytes": "9223372036854771712\n",
                f"{TOP}/memory/memory.usage_in_bytes": "1\n",
                f"{TOP}/memory/x/memory.limit_in_bytes": "300000000\n",
                f"{TOP}/memory/x/memory.usage_in_bytes": "400000000\n",
                f"{TOP}/cpu,cpuacct/y/cpu.cfs_quota_us": "50000\n",
                f"{TOP}/cpu,cpuacct/y/cpu.cfs_period_us": "100000\n",
                f"{TOP}/cpu,cpuacct/y/z/cpu.cfs_quota_us": "-1\n",
                f"{TOP}/cpu,cpuacct/y/z/cpu.cfs_period_us": "100000\n",
                f"{TOP}/cpuset/y/cpuset.effective_cpus": "1\n",
            },
        )
    )
    assert found["memory"]["group_bytes"] == 300_000_000
    assert found["memory"]["room_bytes"] == 0  # over its limit already
    assert (found["processors"]["quota"], found["processors"]["cpuset"]) == (0.5, 1)


def test_a_container_that_sees_its_hosts_path(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/kubepods/pod1/abc\n",
        f"{TOP}/memory.max": "200000000\n",
        f"{TOP}/memory.current": "0\n",
        f"{TOP}/cpu.max": "25000 100000\n",
    }
    found = limits.read(plant(tmp_path, files))
    assert found["memory"]["least_bytes"] == 200_000_000
    assert found["processors"]["quota"] == 0.25


def test_no_groups_and_no_files(tmp_path: Path) -> None:
    found = limits.read(tmp_path)
    assert found["memory"]["least_bytes"] is None
    assert found["processors"]["quota"] is None
    assert found["processors"]["least"] == found["processors"]["affinity"]
    assert limits.read(plant(tmp_path, {"proc/self/cgroup": "nonsense\n::\n"}))["processes"] is None


@given(st.text(max_size=40), st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_a_limit_or_none(
    tmp_path_factory: pytest.TempPathFactory, groups: str, memory: str, cpu: str
) -> None:
    root = plant(
        tmp_path_factory.mktemp("root"),
        {
            "proc/self/cgroup": groups + "\n0::/\n", "proc/meminfo": memory, f"{TOP}/memory.max": memory,
            f"{TOP}/memory.current": "0", f"{TOP}/cpu.max": cpu, f"{TOP}/cpuset.cpus": cpu,
        },
    )  # fmt: skip
    found = limits.read(root)
    assert found["processors"]["least"] is not None
    for _, folder in cgroups.folders("memory", root):
        assert folder == root / TOP or (root / TOP) in folder.parents


def test_this_process_lives_within_its_limits() -> None:
    found = limits.measure()
    assert found["memory"]["least_bytes"] <= found["memory"]["total_bytes"]
    assert 0 < found["memory"]["room_bytes"] <= found["memory"]["least_bytes"]
    assert 0 < found["processors"]["least"] <= found["processors"]["installed"]
    assert found["ulimits"]["open_files"] is None or found["ulimits"]["open_files"] > 0
