"""Every architecture on the torch backend against Transformers, out of tiny random checkpoints.

Tolerance: both sides compute in float32 with sums of at most a few hundred terms over at most seven layers;
each sum errs by about sqrt(n) units in the last place (n = 160, 2**-24), and the layers' errors add. Logits
stay below 16: 16 * 2**-24 * sqrt(160) * 7 layers * 2 sums is 1.7e-4. Frequencies that differ in their last
place turn position 60 by 60 * 2**-24 and stay below that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tiny import (
    CLASSES,
    VARIANTS,
    VOCAB,
    make_tiny,
    make_variant,
    num_pages_for,
    reference_logits,
    run_in_chunks,
    some_tokens,
)
from tiny_gguf import gguf_from

from trimtab.engine.batch import PAGE_TOKENS, Batch
from trimtab.errors import BadFile, UnknownName, Unsupported
from trimtab.formats.source import open_source
from trimtab.kernels.torch_ops import KvType, TorchCache, TorchMaker, TorchOps, WeightFormat
from trimtab.models import ARCHITECTURES, forward, load_architecture
from trimtab.models.config import config_from
from trimtab.models.weights import load_weights, unpermute

Floats = npt.NDArray[np.float32]

TOLERANCE = 2e-4
SEQUENCES = [some_tokens(60), some_tokens(33, 1), some_tokens(5, 2)]
WHOLE = [[60], [33], [5]]
IN_CHUNKS = [[20, 1, 1, 1, 17, 20], [1, 0, 31, 1], [0, 0, 5]]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@torch.no_grad()
def run(
    path: Path,
    chunks: list[list[int]] = WHOLE,
    *,
    sequences: list[list[int]] = SEQUENCES,
    dtype: torch.dtype = torch.float32,
    kv_type: KvType = "f32",
    weights: WeightFormat = "float",
) -> list[Floats]:
    """Logits of every position of every sequence on the torch backend."""
    source = open_source(path)
    config = config_from(source)
    made = load_weights(source, config, TorchMaker(source, dtype=dtype, weights=weights))
    cache = TorchCache(
        layers=config.layers,
        num_pages=num_pages_for(sequences),
        page_tokens=PAGE_TOKENS,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        kv_type=kv_type,
    )

    def logits(batch: Batch) -> Floats:
        ops = TorchOps(batch, cache, context=max(map(len, sequences)), dtype=dtype)
        return np.asarray(forward(ops, config, made).numpy(), np.float32)

    try:
        return run_in_chunks(logits, sequences, chunks)
    finally:
        source.close()


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    folder = make_variant(name, tmp_path)
    expected = reference_logits(folder, SEQUENCES[0])
    assert np.ptp(expected) > 3, "logits this flat would prove nothing"
    np.testing.assert_allclose(run(folder)[0], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", CLASSES)
def test_chunks_and_neighbours_change_nothing(name: str, tmp_path: Path) -> None:
    folder = make_tiny(name, tmp_path)
    for whole, chunked in zip(run(folder), run(folder, IN_CHUNKS), strict=True):
        np.testing.assert_allclose(chunked, whole, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CLASSES)
def test_half_precision_checkpoints_read_exactly(name: str, dtype: str, tmp_path: Path) -> None:
    folder = make_tiny(name, tmp_path, dtype)
    np.testing.assert_allclose(run(folder)[0], reference_logits(folder, SEQUENCES[0]), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", CLASSES)
def test_bfloat16_is_no_further_off_than_transformers(name: str, tmp_path: Path) -> None:
    """With the residual stream in float32 the mean error is below that of bfloat16 throughout."""
    folder = make_tiny(name, tmp_path, "bfloat16")
    exact = reference_logits(folder, SEQUENCES[0])
    theirs = np.abs(reference_logits(folder, SEQUENCES[0], "bfloat16") - exact).mean()
    ours = np.abs(run(folder, dtype=torch.bfloat16, kv_type="bf16")[0] - exact).mean()
    assert 0 < ours <= theirs


def test_int8_cache_is_close(tmp_path: Path) -> None:
    """Rounding heads to 127 steps moves logits of spread 1 by little; a wrong scale, by their own size."""
    folder = make_tiny("llama", tmp_path)
    for exact, rounded in zip(run(folder), run(folder, IN_CHUNKS, kv_type="int8"), strict=True):
        assert 0 < np.abs(exact - rounded).mean() < 0.05


# Not in GGUF: dynamic scaling, Llama's own LongRoPE; Mistral is written as an unwindowed llama.
NOT_GGUF = {"mistral", "llama-dynamic", "llama-yarn", "llama-llama3", "llama-longrope", "qwen2-windowed"}


@pytest.mark.parametrize("name", sorted(VARIANTS.keys() - NOT_GGUF))
def test_gguf_files_hold_the_same_model(name: str, tmp_path: Path) -> None:
    folder = make_variant(name, tmp_path)
    path = gguf_from(folder, tmp_path / "tiny.gguf")
    for a, b in zip(run(path), run(folder), strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("quant", ["Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_quantized_gguf_equals_transformers(name: str, quant: str, tmp_path: Path) -> None:
    folder = make_tiny(name, tmp_path)
    path = gguf_from(folder, tmp_path / "tiny.gguf", quant)
    expected = reference_logits(folder, SEQUENCES[0])
    for weights in ("float", "auto"):  # dequantised at once, and kept in blocks
        np.testing.assert_allclose(run(path, weights=weights)[0], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("weights", "most"), [("int8", 0.06), ("int4", 1.0)])
def test_rounding_weights_stays_near(weights: WeightFormat, most: float, tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path)
    assert 0 < np.abs(run(folder, weights=weights)[0] - run(folder)[0]).mean() < most


def test_the_table_is_complete() -> None:
    assert set(ARCHITECTURES) == set(CLASSES)
    for name in ARCHITECTURES:
        assert callable(load_architecture(name))
    with pytest.raises(UnknownName, match="did you mean `gemma2`"):
        load_architecture("gema2")


def test_unpermute_undoes_the_converter() -> None:
    heads, head_dim = 3, 8
    permuted = np.arange(heads * head_dim).reshape(heads, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)
    assert (permuted[unpermute(heads, head_dim, head_dim)] == np.arange(heads * head_dim)).all()
    partly = unpermute(1, 8, 4)
    assert partly.tolist() == [0, 2, 1, 3, 4, 5, 6, 7]


@pytest.fixture
def change(tmp_path: Path) -> Callable[[Callable[[dict[str, torch.Tensor]], None]], Path]:
    """A tiny llama whose tensors a test changes before they are read."""
    from safetensors.torch import load_file, save_file

    def apply(edit: Callable[[dict[str, torch.Tensor]], None]) -> Path:
        folder = make_tiny("llama", tmp_path)
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder

    return apply


DOWN = "model.layers.1.mlp.down_proj.weight"


def test_a_missing_tensor_is_named(change: Callable[..., Path]) -> None:
    folder = change(lambda tensors: tensors.pop(DOWN))
    with pytest.raises(BadFile, match=rf"{DOWN}.*missing"):
        run(folder)


def test_a_tensor_of_another_shape_is_named(change: Callable[..., Path]) -> None:
    folder = change(lambda tensors: tensors.update({DOWN: torch.zeros(96, 161)}))
    with pytest.raises(BadFile, match=rf"{DOWN}.*\(96, 161\).*\(96, 160\)"):
        run(folder)


def test_a_tensor_nobody_reads_is_refused(change: Callable[..., Path]) -> None:
    extra = "model.layers.0.mlp.gate_proj.bias"
    folder = change(lambda tensors: tensors.update({extra: torch.zeros(160)}))
    with pytest.raises(Unsupported, match=extra):
        run(folder)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", ""])
def test_the_text_model_may_hang_elsewhere(prefix: str, change: Callable[..., Path]) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensor = tensors.pop(name)
            if name == "lm_head.weight":
                name = prefix.removesuffix("model.").removesuffix("model.language_") + name
            tensors[name.replace("model.", prefix, 1) if name.startswith("model.") else name] = tensor

    plain = run(change(lambda tensors: None))[2]
    assert plain.shape == (5, VOCAB)
    np.testing.assert_array_equal(run(change(rename))[2], plain)
