"""The timed kernels: their machine code is what the table says, rings are whole, events happen."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import _native

SOURCES = Path(__file__).parents[2] / "native" / "micro"
KERNELS = _native.micro.kernels()
GENERATED = [kernel for kernel in KERNELS if not kernel["compiled"]]


def name_of(kernel: Any) -> str:
    return f"{kernel['name']}-{kernel['width_bits']}-{kernel['chains']}"


def disassembled(code: bytes, path: Path) -> list[str]:
    """Mnemonics of x86-64 machine code, in order."""
    path.write_bytes(code)
    command = [
        "objdump",
        "-D",
        "-b",
        "binary",
        "-m",
        "i386:x86-64",
        "-M",
        "intel",
        "--no-show-raw-insn",
        path,
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [match[1] for match in re.finditer(r"^\s*[0-9a-f]+:\s+(\S+)", text, re.M)]


def wanted(kernel: Any) -> Counter[str]:
    """What the loop must hold: each step's instructions, and the counting."""
    step = Counter(part.split()[0] for part in kernel["text"].split("; "))
    return Counter({mnemonic: count * kernel["steps"] for mnemonic, count in step.items()}) + Counter(
        ["dec", "jne"]
    )


@pytest.mark.skipif(not GENERATED or not shutil.which("objdump"), reason="needs x86-64 and objdump")
def test_every_loop_holds_its_instructions_and_nothing_else(tmp_path: Path) -> None:
    for kernel in GENERATED:
        code = _native.micro.code(kernel["name"], kernel["width_bits"], kernel["chains"])
        found = Counter(disassembled(code, tmp_path / "code"))
        assert found == wanted(kernel), name_of(kernel)


@pytest.mark.skipif(not GENERATED or not shutil.which("objdump"), reason="needs x86-64 and objdump")
def test_a_missing_instruction_would_be_noticed(tmp_path: Path) -> None:
    kernel = next(k for k in GENERATED if k["name"] == "add_i64" and k["chains"] == 1)
    code = _native.micro.code("add_i64", 64, 1)
    assert Counter(disassembled(code[3:], tmp_path / "code")) != wanted(kernel)  # an addition is three bytes


@pytest.mark.parametrize("kernel", KERNELS, ids=name_of)
def test_every_kernel_runs_with_random_data_and_zeros(kernel: Any) -> None:
    for zeros in (False, True):
        [samples] = _native.micro.time(kernel["name"], kernel["width_bits"], kernel["chains"], 2, [-1], zeros)
        assert len(samples) == 2
        for cycles, ns, hz in samples:
            assert 0 < ns < 1e6
            assert 0 < cycles < 1e6
            assert 1e6 < hz < 1e11


def test_threads_are_timed_together_one_list_each() -> None:
    timed = _native.micro.time("add_i64", 64, 1, 3, [-1, -1])
    assert [len(one) for one in timed] == [3, 3]


def test_impossible_requests_are_refused() -> None:
    for name, width, chains in [("no_such", 64, 1), ("add_i64", 65, 1), ("add_i64", 64, 3)]:
        with pytest.raises(ValueError, match="no kernel"):
            _native.micro.time(name, width, chains, 1, [-1])
    for samples, cpus in [(0, [-1]), (1, []), (10**9, [-1])]:
        with pytest.raises(ValueError, match=r"samples|cpus"):
            _native.micro.time("add_i64", 64, 1, samples, cpus)
    with pytest.raises(ValueError, match="no event"):
        _native.micro.time_os("no_such", 1, [-1])
    with pytest.raises(ValueError, match="no event"):
        _native.micro.time_sync("no_such", 1, [-1, -1])
    with pytest.raises(ValueError, match="wrong number"):
        _native.micro.time_sync("line_round_trip", 1, [-1])
    with pytest.raises(ValueError, match="cannot read"):
        _native.micro.time_os("file_read_4k", 1, [-1], "/no/such/file")


@given(
    lines=st.integers(2, 3000),
    stride=st.sampled_from([64, 192, 4096]),
    random=st.booleans(),
    spread=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_ring_meets_every_node_once(lines: int, stride: int, random: bool, spread: bool) -> None:
    chase = _native.micro.Chase(3000 * 4096, False)
    chase.link(lines * stride, stride, random, spread)
    assert chase.nodes == lines == chase.length()
    assert len(chase.run(100, 2, 10)) == 2
    assert len(chase.run(100, 2, 10, [-1, -1])) == 2


def test_rings_that_do_not_fit_are_refused() -> None:
    chase = _native.micro.Chase(2**20, False)
    assert chase.nbytes == 2**21
    for size, stride in [(64, 64), (2**22, 64), (4096, 32), (4096, 100)]:
        with pytest.raises(ValueError, match="ring"):
            chase.link(size, stride, True, False)
    with pytest.raises(ValueError, match="link a ring"):
        chase.run(1, 1, 0)


@pytest.mark.parametrize(
    ("event", "cpus"),
    [("atomic_add", 1), ("atomic_add_contended", 2), ("line_round_trip", 2), ("futex_wake", 2),
     ("futex_round_trip", 2)],
)  # fmt: skip
@pytest.mark.skipif(sys.platform != "linux", reason="futexes are Linux's")
def test_events_between_cores_take_time(event: str, cpus: int) -> None:
    taken = _native.micro.time_sync(event, 3, [-1] * cpus)
    assert len(taken) == 3
    assert min(taken) > 0


@pytest.mark.parametrize(
    "event",
    ["syscall", "clock", "page_fault", "page_fault_2m", "mmap_read", "file_read_4k", "file_read_1m", "pipe",
     "pipe_round_trip", "thread_start"],
)  # fmt: skip
@pytest.mark.skipif(sys.platform != "linux", reason="the system's calls are Linux's")
def test_events_of_the_system_take_time(event: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2**20))
    taken = _native.micro.time_os(event, 3, [-1] * (2 if event == "pipe_round_trip" else 1), str(path))
    assert len(taken) == 3
    assert min(taken) > 0


def test_a_file_too_small_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for event in ("mmap_read", "file_read_4k"):
        with pytest.raises(ValueError, match="too small"):
            _native.micro.time_os(event, 1, [-1], str(tmp_path / "file"))


def test_the_generated_source_is_plain_without_x86(tmp_path: Path) -> None:
    """Another processor's compiler sees an empty table."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if not compiler:
        pytest.skip("needs a C++ compiler")
    source = tmp_path / "timed.cpp"
    subprocess.run([sys.executable, "-B", SOURCES / "generate.py", source], check=True)
    source.write_text(source.read_text().replace("__x86_64__", "__another_processor__"))
    command = [compiler, "-std=c++20", f"-I{SOURCES.parent}", "-Wall", "-Werror", "-fsyntax-only"]
    subprocess.run([*command, source], check=True)
    plain = subprocess.run([*command[:-1], "-E", source], capture_output=True, text=True, check=True).stdout
    assert "asm volatile" not in plain
