"""STREAM on a GPU: right results, as fast as torch's own copy and add. Needs a build with TRIMTAB_CUDA."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from pathlib import Path

import pytest

from trimtab import _native

NATIVE = Path(__file__).resolve().parents[2] / "native"
PATTERNS = ["copy", "scale", "add", "triad", "sum", "fill"]

on_a_gpu = pytest.mark.skipif(
    not hasattr(_native, "cuda_stream") or _native.cuda_devices() == 0,
    reason="needs a CUDA device and a build with -DTRIMTAB_CUDA=ON",
)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_it_compiles(tmp_path: Path) -> None:
    command = ["nvcc", "-std=c++20", "-arch=sm_90a", f"-I{NATIVE}", "-o", str(tmp_path / "stream.o")]
    command += ["-c", str(NATIVE / "cuda/stream.cu")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16"])
@pytest.mark.parametrize("n", [1, 1_000_003])
def test_results_are_right(dtype: str, n: int) -> None:
    """The native code checks every array itself and raises when one is wrong."""
    times = _native.cuda_stream(0, dtype, n, PATTERNS, 10)
    assert [len(each) for each in times] == [10] * len(PATTERNS)


@pytest.mark.gpu
@on_a_gpu
def test_it_is_as_fast_as_torch() -> None:
    """Copy and add of doubles against torch's own, by turns."""
    import torch

    n = 2**27
    a, b, c = (torch.ones(n, dtype=torch.float64, device="cuda") for _ in range(3))

    def theirs(pattern: str) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        if pattern == "copy":
            c.copy_(a)
        else:
            torch.add(a, b, out=c)
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3

    ratios: dict[str, list[float]] = {"copy": [], "add": []}
    for _ in range(9):
        ours = _native.cuda_stream(0, "f64", n, ["copy", "add"], 10)
        for pattern, seconds in zip(("copy", "add"), ours, strict=True):
            ratios[pattern].append(min(theirs(pattern) for _ in range(10)) / min(seconds[1:]))
    assert all(statistics.median(each) >= 0.97 for each in ratios.values()), ratios
