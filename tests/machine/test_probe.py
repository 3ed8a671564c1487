from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trimtab import _native
from trimtab.errors import UsageError
from trimtab.machine import probe


def test_the_machine_says_what_it_is() -> None:
    machine = probe.describe()
    assert machine.processor
    assert 1 <= machine.usable <= machine.processors
    assert machine.memory_bytes > 2**28


def test_ceilings_are_plausible() -> None:
    limits = probe.measure(threads=1, seconds=0.01)
    assert 1e8 < limits.read_bytes_per_s <= limits.best_read_bytes_per_s < 1e13
    assert 1e8 < limits.int8_ops_per_s < 1e14
    assert 1e8 < limits.float_ops_per_s < 1e14
    assert limits.int8_kind
    assert limits.float_kind


@pytest.mark.parametrize(
    ("threads", "seconds"), [(-1, 0.1), (2000, 0.1), (1, -1.0), (1, 1e9), (1, float("nan"))]
)
def test_impossible_settings_are_refused(threads: int, seconds: float) -> None:
    with pytest.raises(UsageError):
        probe.measure(threads, seconds)


@pytest.mark.parametrize("size", [0, 511, 2**40])
def test_impossible_buffers_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="bytes to read"):
        _native.read_rates(size, 1, 0.0)


def test_at_least_one_pass_is_made_and_odd_sizes_work() -> None:
    rates = _native.read_rates(3 * 2**20 + 777, 3, 0.0)
    assert len(rates) == 1
    assert rates[0] > 0


def test_memory_of_a_process_and_its_family() -> None:
    assert 2**20 < probe.resident_bytes() <= probe.resident_bytes(key="VmHWM")
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        while len(probe.family(process.pid)) < 2 and process.poll() is None:
            pass
        assert len(probe.family(process.pid)) == 2
        process.communicate(b"\n")
    assert probe.resident_bytes(process.pid) == 0
    assert os.getpid() in probe.family(os.getpid())
