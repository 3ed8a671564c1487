"""The GPU's microbenchmarks: every source compiles. Nothing here runs on a device."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MICRO = Path(__file__).resolve().parents[2] / "native/cuda/micro"


@pytest.fixture(scope="module")
def tensor_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generated") / "tensor_kernels.cuh"
    subprocess.run([sys.executable, "-B", str(MICRO / "generate.py"), str(path)], check=True)
    return path


def test_every_type_has_every_width_from_both_places(tensor_kernels: Path) -> None:
    text = tensor_kernels.read_text()
    for kind, inner in (("bf16", 16), ("f16", 16), ("tf32", 8), ("e4m3", 32), ("s8", 32)):
        sums = "s32" if kind == "s8" else "f32"
        for n in (8, 16, 32, 64, 128, 256):
            # Once from shared memory and once from registers.
            assert text.count(f"wgmma.mma_async.sync.aligned.m64n{n}k{inner}.{sums}.{kind}.{kind} ") == 2
        assert text.count(f"mma.sync.aligned.m16n8k{inner}.row.col.{sums}.{kind}.{kind}.{sums} ") == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("source", sorted(path.name for path in MICRO.glob("*.cu")))
def test_it_compiles_without_a_warning(source: str, tensor_kernels: Path, tmp_path: Path) -> None:
    command = [
        "nvcc",
        "-std=c++17",
        "-gencode",
        "arch=compute_90a,code=sm_90a",
        "-o",
        str(tmp_path / "out.o"),
    ]
    command += [f"-I{MICRO}", f"-I{tensor_kernels.parent}", "-c", str(MICRO / source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
