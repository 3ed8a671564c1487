"""Topology of made-up machines, and of trees that make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import plant, server

from trimtab.machine.measures import topology


def test_two_sockets_with_two_threads_a_core(tmp_path: Path) -> None:
    found = topology.read(plant(tmp_path, server(2, 2, 2)))
    assert (found["sockets"], found["cores"], found["threads"], found["threads_per_core"]) == (2, 4, 8, 2)
    assert [node["cpus"] for node in found["numa"]] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert [node["distances"] for node in found["numa"]] == [[10, 21], [21, 10]]
    caches = {cache["name"]: cache for cache in found["caches"]}
    assert list(caches) == ["L1d", "L1i", "L3"]
    assert (caches["L1d"]["instances"], caches["L1d"]["bytes"]) == (4, 48 << 10)
    assert caches["L1d"]["shared_by"] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert (caches["L3"]["instances"], caches["L3"]["bytes"]) == (2, 64 << 20)


def test_a_processor_that_is_off_does_not_count(tmp_path: Path) -> None:
    files = server(1, 2, 2) | {"sys/devices/system/cpu/online": "0-1\n"}
    found = topology.read(plant(tmp_path, files))
    assert (found["cores"], found["threads"], found["threads_per_core"]) == (2, 2, 1)
    assert {cache["name"]: cache["shared_by"] for cache in found["caches"]}["L1d"] == [[0], [1]]


def test_pages_and_who_runs_it(tmp_path: Path) -> None:
    files = {
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "8\n",
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "3\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "sys/kernel/mm/transparent_hugepage/hpage_pmd_size": "2097152\n",
        "proc/cpuinfo": "processor : 0\nmodel name : A B\ncpu MHz : 2500.5\nflags : fpu avx2 hypervisor\n\n",
        "sys/class/dmi/id/sys_vendor": "QEMU\n",
        "run/.containerenv": "",
        "proc/meminfo": "MemTotal:  2048 kB\nHugePages_Total:   8\n",
    }
    found = topology.read(plant(tmp_path, files))
    assert found["pages"]["huge"] == {"2097152": {"reserved": 8, "free": 3}}
    assert (found["pages"]["transparent"], found["pages"]["transparent_bytes"]) == ("madvise", 2 << 20)
    assert found["hypervisor"] == {"virtual": True, "vendor": "QEMU", "container": "podman"}
    assert (found["processor"], found["mhz"], found["memory_bytes"]) == ("A B", 2500.5, 2 << 20)
    assert topology.meminfo("HugePages_Total", tmp_path) == 8


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    found = topology.read(tmp_path)
    assert (found["sockets"], found["cores"], found["caches"], found["numa"]) == (None, None, [], [])
    assert found["hypervisor"] == {"virtual": False, "vendor": None, "container": None}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0-3,8\n", [0, 1, 2, 3, 8]),
        ("5", [5]),
        ("", []),
        ("a", []),
        ("3-1", []),
        ("1,,2", [1, 2]),
        ("-1", []),
    ],
)
def test_lists_of_numbers(text: str, numbers: list[int]) -> None:
    assert topology.numbers(text) == numbers


NAMES = [name for name in server(1, 1, 1) if "/cpu0/" in name or "node0" in name]


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=20), max_size=6))
def test_nonsense_in_the_files_is_no_failure(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, str]
) -> None:
    found = topology.read(plant(tmp_path_factory.mktemp("sys"), server(1, 1, 1) | files))
    assert found["threads"] == 1
    assert all(cache["bytes"] >= 0 for cache in found["caches"])


def test_this_machine_agrees_with_itself() -> None:
    found = topology.measure()
    assert found["threads"] == found["cores"] * found["threads_per_core"]
    assert 1 <= found["usable"] <= found["threads"]
    for cache in found["caches"]:
        sharers = [cpu for group in cache["shared_by"] for cpu in group]
        assert sorted(sharers) == sorted(cpu["cpu"] for cpu in found["cpus"])
