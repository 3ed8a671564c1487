"""A budget is divided without a byte too many, and refused with a size that then does work."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.batch import PAGE_TOKENS
from trimtab.engine.budget import (
    STEPS,
    USUAL_SEQUENCES,
    VARIES_MB,
    EnginePlan,
    available_bytes,
    format_size,
    group_limit,
    parse_size,
    plan,
    resident_bytes,
)
from trimtab.errors import DoesNotFit, UsageError

MB = 10**6


def divide(memory: int | None, **more: object) -> EnginePlan:
    sizes = {
        "base_bytes": 45 * MB,
        "weights_bytes": 97 * MB,
        "scratch_bytes": lambda rows, wanted: rows * 5_000 + wanted * 200_000,
        "page_bytes": 368_640,
        "model_context": 8192,
        "loading_bytes": 30 * MB,
    }
    return plan(memory, **{**sizes, **more})  # type: ignore[arg-type]


@given(
    st.integers(1, 2000 * MB),
    st.integers(1, 300 * MB),
    st.integers(1, 2 * MB),
    st.sampled_from([None, 16, 100, 2048, 8192]),
    st.integers(0, 60 * MB),
)
def test_a_plan_stays_inside_its_promise_or_names_one_that_holds(
    memory: int, weights: int, page: int, context: int | None, loading: int
) -> None:
    sizes = {"weights_bytes": weights, "page_bytes": page, "context": context, "loading_bytes": loading}
    try:
        found = divide(memory, **sizes)
    except DoesNotFit as error:
        offered = re.search(r"would do is `--memory (\w+)`", error.hint)
        assert offered is not None
        smallest = parse_size(offered[1])
        assert smallest > memory
        found = divide(smallest, **sizes)
        memory = smallest
        with pytest.raises(DoesNotFit):
            divide(smallest - (VARIES_MB + 2) * MB, **sizes)
    assert found.total_bytes <= memory
    assert found.base_bytes + weights + loading <= memory
    assert found.num_pages * PAGE_TOKENS >= found.context >= min(context or 2048, 8192)
    assert found.max_running <= found.max_wanted <= found.max_rows
    assert (found.max_rows, found.max_wanted) in STEPS


def test_more_memory_never_gives_less() -> None:
    plans = [divide(memory * MB) for memory in range(300, 3000, 50)]
    for less, more in itertools.pairwise(plans):
        assert (more.max_rows, more.context) >= (less.max_rows, less.context)


def test_without_a_promise_the_usual_is_planned() -> None:
    found = divide(None)
    assert found.context == 8192
    assert found.num_pages == USUAL_SEQUENCES * 8192 // PAGE_TOKENS
    assert (found.max_rows, found.max_wanted) == STEPS[0]
    assert divide(None, model_context=1024).context == 1024
    assert divide(None, context=100).context == 100
    small = divide(None, available_bytes=300 * MB)
    assert small.total_bytes <= 45 * MB + 240 * MB
    with pytest.raises(DoesNotFit, match="the memory of this machine"):
        divide(None, available_bytes=50 * MB)


def test_a_refusal_says_what_the_memory_is_for() -> None:
    with pytest.raises(DoesNotFit) as caught:
        divide(100 * MB)
    text = str(caught.value)
    assert "--memory 100MB is too small" in text
    for words in ("weights 97 MB", "2048 tokens of cache 48 MB", "--context 512", "--kv-type int8"):
        assert words in text


def test_a_context_beyond_the_model() -> None:
    with pytest.raises(UsageError, match=r"9000.*8192"):
        divide(None, context=9000)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("400MB", 400 * MB), ("1.5GiB", 3 << 29), ("70000000", 7 * 10**7), (" 2 g ", 2 * 10**9),
        ("1kib", 1024), ("0.5mb", 500_000), ("1B", 1),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "-5MB", "1e9", "5 parsecs", "0", "99999999999999TB", "1.2.3MB", "nan"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="size"):
        parse_size(text)


def test_sizes_for_people() -> None:
    assert [format_size(n) for n in (1, 412 * MB, 1_540 * MB)] == ["1 MB", "412 MB", "1.5 GB"]


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_the_tighter_of_machine_and_control_group_counts(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    write(tmp_path, {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n"})
    assert available_bytes(tmp_path) == 5_120_000
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/memory.max": "3000000\n",
            "sys/fs/cgroup/a/memory.current": "1500000\n",
            "sys/fs/cgroup/a/memory.stat": "anon 70\ninactive_file 500000\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/memory.current": "10\n",
        },
    )
    assert available_bytes(tmp_path) == 2_000_000
    write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,memory:/x\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1500000\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1600000\n",
        },
    )
    assert available_bytes(tmp_path) == 0


CONTAINERS = {
    "version 2, a namespace of its own": (
        "0::/\n", {"memory.max": "536870912\n", "memory.current": "100000000\n"}, "sys/fs/cgroup",
    ),
    "version 2, systemd's MemoryHigh": (
        "0::/system.slice/trimtab.service\n",
        {"memory.max": "max\n", "memory.high": "536870912\n", "memory.current": "100000000\n"},
        "sys/fs/cgroup/system.slice/trimtab.service",
    ),
    "version 1, the path is the host's": (
        "9:name=systemd:/docker/abc\n4:memory:/docker/abc\n",
        {"memory.limit_in_bytes": "536870912\n", "memory.usage_in_bytes": "100000000\n"},
        "sys/fs/cgroup/memory",
    ),
    "version 1, the path is our own": (
        "4:memory:/kubepods/pod1/c1\n",
        {"memory.limit_in_bytes": "536870912\n", "memory.usage_in_bytes": "100000000\n"},
        "sys/fs/cgroup/memory/kubepods/pod1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_gets_what_it_was_given_and_not_what_the_host_has(tmp_path: Path, kind: str) -> None:
    cgroup, files, folder = CONTAINERS[kind]
    write(tmp_path, {"proc/meminfo": "MemTotal: 99000000 kB\nMemAvailable: 90000000 kB\n"})
    assert group_limit(tmp_path) is None
    write(
        tmp_path, {"proc/self/cgroup": cgroup, **{f"{folder}/{name}": text for name, text in files.items()}}
    )
    assert group_limit(tmp_path) == 512 << 20
    assert available_bytes(tmp_path) == (512 << 20) - 100_000_000
    # What only caches files is given back when it is needed.
    write(tmp_path, {f"{folder}/memory.stat": "total_inactive_file 40000000\ninactive_file 40000000\n"})
    assert available_bytes(tmp_path) == (512 << 20) - 60_000_000
    # And that is what is planned for, when nobody says --memory.
    found = divide(None, available_bytes=available_bytes(tmp_path))
    assert found.total_bytes <= 45 * MB + 0.8 * ((512 << 20) - 60_000_000)
    assert found.total_bytes < 512 << 20


def test_no_limit_is_none(tmp_path: Path) -> None:
    """Version 1 writes a number beyond every machine where there is no limit."""
    write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n",
            "proc/self/cgroup": "4:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1500000\n",
        },
    )
    assert group_limit(tmp_path) is None
    assert available_bytes(tmp_path) == 5_120_000


def test_this_process_has_a_size() -> None:
    assert resident_bytes() > 1 << 20
