"""Triton kernels against the torch references: on the GPU where there is one, else in Triton's interpreter.

Most is compared in float32, where both sides differ only in the order of sums of up to 200 terms near 1:
sqrt(200) * 2**-24 is 8e-7, and sums of sums (attention) stay below ten times that. The interpreter multiplies
bfloat16 wrongly, so its products are tried in float16 too, which has the same code path on a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.engine.batch import PAGE_TOKENS, Batch
from trimtab.engine.sampling import ADJUST, SAMPLING
from trimtab.engine.torch_runner import TorchRunner
from trimtab.formats.source import open_source
from trimtab.kernels import quantize
from trimtab.kernels.quantize import GroupMatrix, Int8Matrix
from trimtab.kernels.torch_ops import KvType, TorchCache, TorchOps
from trimtab.models.config import config_from
from trimtab.models.rope import Rope

sys.path.append(str(Path(__file__).parents[1] / "models"))
from tiny import make_tiny, num_pages_for, run_in_chunks, some_tokens

pytest.importorskip("triton", reason="Triton is published for Linux only")

from trimtab.kernels.triton import TritonOps

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TIGHT = {"atol": 1e-5, "rtol": 1e-5}


def batch_of(spans: list[tuple[int, int]]) -> Batch:
    """A batch of (first position, rows) spans on scattered pages."""
    counts = [-(-(first + rows) // PAGE_TOKENS) for first, rows in spans]
    shuffled = np.random.default_rng(3).permutation(sum(counts) + 2)[: sum(counts)]
    total = sum(rows for _, rows in spans)
    return Batch(
        tokens=np.arange(total, dtype=np.int32) % 7,
        positions=np.concatenate([np.arange(first, first + rows) for first, rows in spans]).astype(np.int32),
        span_start=np.cumsum([0, *(rows for _, rows in spans)], dtype=np.int32),
        page_start=np.cumsum([0, *counts], dtype=np.int32),
        pages=shuffled.astype(np.int32),
        wanted=np.array([0, total - 1], np.int32),
        sampling=np.zeros(2, SAMPLING),
        adjust_start=np.zeros(3, np.int32),
        adjust=np.zeros(0, ADJUST),
    )


def both(
    spans: list[tuple[int, int]], *, kv_heads: int = 2, head_dim: int = 32, kv_type: KvType = "f32",
    dtype: torch.dtype = torch.float32,
) -> tuple[TorchOps, TritonOps]:  # fmt: skip
    """Reference and Triton backend over the same batch, each with its own copy of one random cache."""
    batch, made = batch_of(spans), []
    for kind in (TorchOps, TritonOps):
        cache = TorchCache(
            layers=2, num_pages=len(batch.pages) + 2, page_tokens=PAGE_TOKENS, kv_heads=kv_heads,
            head_dim=head_dim, kv_type=kv_type, device=DEVICE,
        )  # fmt: skip
        slots = torch.arange(cache.num_pages * PAGE_TOKENS, device=DEVICE)
        for layer in range(2):
            random = torch.Generator().manual_seed(layer)
            keys, values = torch.randn(2, len(slots), kv_heads, head_dim, generator=random).to(DEVICE)
            cache.write(layer, slots, keys, values)
        made.append(kind(batch, cache, context=512, dtype=dtype))
    return made[0], made[1]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@pytest.mark.parametrize("width", [1, 96, 128, 200])
def test_norm(width: int) -> None:
    torch_ops, triton_ops = both([(0, 3)])
    x, weight = noise(3, width), noise(width, seed=1)
    expected = torch_ops.norm(x, weight, 1e-5)
    torch.testing.assert_close(triton_ops.norm(x, weight, 1e-5), expected, **TIGHT)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # the interpreter's sigmoid of -100
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gated(activation: str) -> None:
    torch_ops, triton_ops = both([(0, 3)])
    x, matrix = noise(3, 40), noise(2 * 1100, 40, seed=1)
    expected = torch_ops.gated(x, matrix, activation)
    torch.testing.assert_close(triton_ops.gated(x, matrix, activation), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kv_type", ["f32", "int8"])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "rope"),
    [
        (6, 2, 32, Rope(theta=10_000.0, dim=32)),
        (3, 1, 48, Rope(theta=10_000.0, dim=24)),
        (2, 2, 20, Rope(theta=500.0, dim=20, kind="yarn", factor=4.0, original_context=64)),
    ],
)
def test_rope_store(
    heads: int, kv_heads: int, head_dim: int, rope: Rope, normed: bool, kv_type: KvType
) -> None:
    torch_ops, triton_ops = both(
        [(0, 5), (70, 1), (15, 4)], kv_heads=kv_heads, head_dim=head_dim, kv_type=kv_type
    )
    qkv = noise(10, (heads + 2 * kv_heads) * head_dim)
    settings = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "rope": rope}
    if normed:
        settings |= {"q_norm": noise(head_dim, seed=1), "k_norm": noise(head_dim, seed=2), "eps": 1e-5}
    expected = torch_ops.rope_store(qkv, 1, **settings)
    torch.testing.assert_close(triton_ops.rope_store(qkv, 1, **settings), expected, **TIGHT)
    ours, theirs = triton_ops.cache, torch_ops.cache
    if kv_type == "int8":  # one step apart where sums in another order move a value over a half
        torch.testing.assert_close(ours.key_scales, theirs.key_scales, **TIGHT)
        for a, b in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
            steps = (a.int() - b.int()).abs()
            assert steps.max() <= 1
            assert steps.float().mean() < 0.001
    else:
        torch.testing.assert_close(ours.keys, theirs.keys, **TIGHT)
        torch.testing.assert_close(ours.values, theirs.values, **TIGHT)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "window", "softcap", "kv_type"),
    [
        (6, 2, 32, 0, 0.0, "f32"),
        (3, 3, 48, 0, 2.0, "f32"),
        (4, 1, 64, 20, 0.0, "f32"),
        (5, 1, 20, 3, 1.5, "int8"),
        (40, 2, 16, 0, 0.0, "int8"),  # more query heads a key-value head than a tile has places
    ],
)
def test_attend(
    heads: int, kv_heads: int, head_dim: int, window: int, softcap: float, kv_type: KvType
) -> None:
    spans = [(0, 37), (90, 1), (31, 6), (0, 1)]
    torch_ops, triton_ops = both(spans, kv_heads=kv_heads, head_dim=head_dim, kv_type=kv_type)
    q = noise(45, heads * head_dim)
    settings = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "scale": head_dim**-0.5}
    settings |= {"window": window, "softcap": softcap}
    expected = torch_ops.attend(q, 1, **settings)
    torch.testing.assert_close(triton_ops.attend(q, 1, **settings), expected, **TIGHT)


def quantized(kind: str, outputs: int, inputs: int) -> Int8Matrix | GroupMatrix:
    weight = noise(outputs, inputs, seed=4)
    if kind == "int8":
        q, scale = quantize.quantize_rows(weight)
        return Int8Matrix(q, scale.squeeze(-1))
    q, scale, minimum = quantize.quantize_groups(weight)
    return GroupMatrix(quantize.pack_pairs(q), scale, minimum)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 33, 32), (5, 70, 96), (70, 37, 160)])
def test_rounded_products(kind: str, rows: int, outputs: int, inputs: int) -> None:
    torch_ops, triton_ops = both([(0, rows)])
    x, matrix = noise(rows, inputs), quantized(kind, outputs, inputs)
    bias, add = noise(outputs, seed=2), noise(rows, outputs, seed=3)
    for more in ({}, {"bias": bias}, {"bias": bias, "add": add}):
        expected = torch_ops.linear(x, matrix, **more)
        torch.testing.assert_close(triton_ops.linear(x, matrix, **more), expected, atol=1e-4, rtol=1e-5)
    norm = noise(inputs, seed=6)
    expected = torch_ops.head(x, norm, 1e-5, matrix, softcap=3.0)
    torch.testing.assert_close(
        triton_ops.head(x, norm, 1e-5, matrix, softcap=3.0), expected, atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_products_in_half_precision(kind: str) -> None:
    """Rounding weights to float16 errs by 2**-11 of each term; sqrt(96) terms of up to 4."""
    torch_ops, triton_ops = both([(0, 5)], dtype=torch.float16)
    x, matrix = noise(5, 96, dtype=torch.float16), quantized(kind, 40, 96)
    expected = torch_ops.linear(x, matrix)
    got = triton_ops.linear(x, matrix)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got, expected, atol=2**-11 * 96**0.5 * 4, rtol=2**-10)


@pytest.mark.parametrize(("architecture", "layers"), [("gemma2", 2), ("qwen3", 1), ("llama", 1)])
def test_whole_models(architecture: str, layers: int, tmp_path: Path) -> None:
    """All kernels together, in chunks: the references say the same within the order of sums."""
    folder = make_tiny(architecture, tmp_path, num_hidden_layers=layers)
    sequences = [some_tokens(22), some_tokens(5, 1)]
    answers = []
    for kernels in ("torch", "triton"):
        with closing(open_source(folder)) as source:
            runner = TorchRunner.open(
                source, config_from(source), num_pages=num_pages_for(sequences), context=22,
                device=DEVICE, dtype="f32", kernels=kernels,
            )  # fmt: skip
        answers.append(run_in_chunks(runner.logits, sequences, [[17, 1, 4], [1, 4]]))
    for ours, theirs in zip(answers[1], answers[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=0)


def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """The interpreter takes more than the compiler does, so the compiler is asked too, without a GPU."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_for_gpu.py")
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [int(size) > 1000 for size in done.stdout.split()] == [True] * 8


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_attend_in_bfloat16() -> None:
    torch_ops, triton_ops = both([(0, 37), (90, 1)], dtype=torch.bfloat16, kv_type="bf16")
    q = noise(38, 192, dtype=torch.bfloat16)
    settings = {"heads": 6, "kv_heads": 2, "head_dim": 32, "scale": 32**-0.5}
    expected = torch_ops.attend(q, 0, **settings)
    torch.testing.assert_close(triton_ops.attend(q, 0, **settings), expected, atol=2**-6, rtol=2**-7)
