"""Lists of processors as the system writes them, and the targets found in a tree like /sys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import _native

ALLOWED = sorted(os.sched_getaffinity(0))


def written(cpus: list[int]) -> str:
    """Ascending processors as the kernel prints them, by its own rule: runs become ranges."""
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@given(st.sets(st.integers(0, 4095), max_size=200))
def test_what_the_system_writes_is_read_back(cpus: set[int]) -> None:
    ascending = sorted(cpus)
    assert _native.parse_cpus(written(ascending)) == ascending
    assert _native.parse_cpus(written(ascending) + "\n") == ascending


@pytest.mark.parametrize(
    "text",
    ["x", ",", "1,", ",1", "1-", "-1", "3-1", "1--2", "1 2", " 1", "0x1", "1\n\n", "65536", "9" * 20,
     "0-65535,0-65535", "1,,2", "+1", "1-2-3"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a list of processors"):
        _native.parse_cpus(text)


@given(st.text(alphabet="0123456789,-\n x", max_size=40) | st.text(max_size=40))
def test_any_text_is_a_list_or_an_error(text: str) -> None:
    try:
        cpus = _native.parse_cpus(text)
    except ValueError:
        return
    assert all(0 <= cpu < 65536 for cpu in cpus)
    # What was taken has a meaning of its own, by an independent reading of the same words.
    spelled = [part.partition("-") for part in text.removesuffix("\n").split(",") if part]
    assert cpus == [cpu for low, _, high in spelled for cpu in range(int(low), int(high or low) + 1)]


def tree(root: Path, nodes: dict[str, str]) -> str:
    for name, cpulist in nodes.items():
        folder = root / "devices/system/node" / name
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpulist)
    return str(root)


def test_domains_with_processors_of_ours_are_targets(tmp_path: Path) -> None:
    mine = written(ALLOWED)
    root = tree(
        tmp_path, {"node1": mine + "\n", "node0": "60000\n", "node10": "", "power": mine, "node": mine}
    )
    assert _native.host_targets(root) == [(1, ALLOWED)]


def test_domains_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    root = tree(tmp_path, {f"node{n}": written(ALLOWED) for n in (10, 2, 0)})
    assert [node for node, _ in _native.host_targets(root)] == [0, 2, 10]


def test_without_domains_there_is_one_target(tmp_path: Path) -> None:
    assert _native.host_targets(str(tmp_path)) == [(0, ALLOWED)]


def test_a_broken_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a list of processors"):
        _native.host_targets(tree(tmp_path, {"node0": "0-\n"}))


def test_this_machine_has_targets() -> None:
    cpus = [cpu for _, each in _native.host_targets() for cpu in each]
    assert sorted(cpus) == ALLOWED
