"""Exported folders: exact values, Transformers' names, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hand_made import FLOAT32, STRING, UINT32, KeyValue, Tensor, gguf_bytes, small_folder
from safetensors.numpy import load_file

from trimtab.errors import Unsupported, UsageError
from trimtab.formats.hf_folder import NewTensor, export_folder, rotate_half_order, to_bf16, write_safetensors
from trimtab.formats.source import open_source

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP, VOCAB = 64, 2, 1, 32, 96, 11


def llama_gguf(path: Path, architecture: str = "llama", more: tuple[KeyValue, ...] = ()) -> Path:
    """A one-layer model of Q8_0 matrices and F32 vectors."""
    prefix = architecture
    metadata: list[KeyValue] = [
        ("general.architecture", STRING, architecture),
        (f"{prefix}.block_count", UINT32, 1),
        (f"{prefix}.context_length", UINT32, 64),
        (f"{prefix}.embedding_length", UINT32, HIDDEN),
        (f"{prefix}.feed_forward_length", UINT32, MLP),
        (f"{prefix}.attention.head_count", UINT32, HEADS),
        (f"{prefix}.attention.head_count_kv", UINT32, KV_HEADS),
        (f"{prefix}.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        ("tokenizer.chat_template", STRING, "{{ messages }}"),
        *more,
    ]
    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> Tensor:
        blocks = random.integers(0, 256, (rows * columns // 32, 34), dtype=np.uint8)
        blocks[:, 1] = 0x20 | blocks[:, 1] & 0x83  # scales of moderate size
        return name, (columns, rows), 8, blocks.tobytes()

    def vector(name: str, size: int) -> Tensor:
        return name, (size,), 0, random.standard_normal(size).astype(np.float32).tobytes()

    tensors = [
        matrix("token_embd.weight", VOCAB, HIDDEN),
        vector("output_norm.weight", HIDDEN),
        vector("blk.0.attn_norm.weight", HIDDEN),
        matrix("blk.0.attn_q.weight", HEADS * HEAD_DIM, HIDDEN),
        matrix("blk.0.attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN),
        matrix("blk.0.attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN),
        matrix("blk.0.attn_output.weight", HIDDEN, HEADS * HEAD_DIM),
        vector("blk.0.ffn_norm.weight", HIDDEN),
        matrix("blk.0.ffn_gate.weight", MLP, HIDDEN),
        matrix("blk.0.ffn_up.weight", MLP, HIDDEN),
        matrix("blk.0.ffn_down.weight", HIDDEN, MLP),
    ]
    path.write_bytes(gguf_bytes(metadata, tensors).data)
    return path


def test_transformers_loads_what_is_exported(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    with open_source(llama_gguf(tmp_path / "m.gguf")) as source:
        folder = export_folder(source, tmp_path / "out", dtype="f32")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        state = model.state_dict()
        layer = "model.layers.0."
        expected = {
            f"{layer}self_attn.v_proj.weight": source.dequantized("blk.0.attn_v.weight"),
            f"{layer}mlp.down_proj.weight": source.dequantized("blk.0.ffn_down.weight"),
            f"{layer}post_attention_layernorm.weight": source.dequantized("blk.0.ffn_norm.weight"),
            "lm_head.weight": source.dequantized("token_embd.weight"),
        }
        for name, values in expected.items():
            assert np.array_equal(state[name].numpy(), values), name
        # Query rows as llama.cpp's converter had them before it interleaved each head's halves.
        stored = source.dequantized("blk.0.attn_q.weight")
        heads = state[f"{layer}self_attn.q_proj.weight"].numpy().reshape(HEADS, 2, HEAD_DIM // 2, HIDDEN)
        assert np.array_equal(heads.swapaxes(1, 2).reshape(stored.shape), stored)
    assert model.config.num_key_value_heads == KV_HEADS
    assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"] == "{{ messages }}"


def test_bf16_folders_open_again(tmp_path: Path) -> None:
    with open_source(llama_gguf(tmp_path / "m.gguf")) as source:
        folder = export_folder(source, tmp_path / "out", tokenizer=lambda f: (f / "tokenizer.json").touch())
        with open_source(folder) as again:
            assert len(again.names()) == len(source.names())
            assert {again.info(name).dtype for name in again.names()} == {"BF16"}
            wide = source.dequantized("blk.0.ffn_up.weight")
            narrow = again.dequantized("model.layers.0.mlp.up_proj.weight")
    # Rounding to 8 significant bits errs by at most half a unit in the last of them.
    assert np.all(np.abs(narrow - wide) <= np.abs(wide) * 2.0**-8)
    assert (folder / "tokenizer.json").exists()
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_folder_can_be_widened(tmp_path: Path) -> None:
    small_folder(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    with open_source(tmp_path / "m") as source:
        folder = export_folder(source, tmp_path / "wide", dtype="f32")
        arrays = load_file(folder / "model.safetensors")
        for name in source.names():
            if source.info(name).dtype == "I64":
                assert arrays[name].tobytes() == source.raw(name).tobytes()
            else:
                assert np.array_equal(arrays[name], source.dequantized(name))
    assert (folder / "tokenizer.json").read_text() == "{}"


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise RuntimeError("no tokenizer")

    with open_source(llama_gguf(tmp_path / "m.gguf")) as source:
        with pytest.raises(RuntimeError, match="no tokenizer"):
            export_folder(source, tmp_path / "out", tokenizer=fail)
        assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
        (tmp_path / "out").mkdir()
        with pytest.raises(UsageError, match="exists already"):
            export_folder(source, tmp_path / "out")


def test_what_has_no_translation_is_refused(tmp_path: Path) -> None:
    gemma = open_source(llama_gguf(tmp_path / "a.gguf", "gemma3"))
    with gemma, pytest.raises(Unsupported, match="'gemma3'"):
        export_folder(gemma, tmp_path / "out")
    scaled = (("llama.rope.scaling.type", STRING, "yarn"),)
    yarn = open_source(llama_gguf(tmp_path / "b.gguf", more=scaled))
    with yarn, pytest.raises(Unsupported, match="scales its rope"):
        export_folder(yarn, tmp_path / "out")
    with open_source(llama_gguf(tmp_path / "c.gguf", "qwen3")) as source:
        folder = export_folder(source, tmp_path / "qwen", dtype="f32")
        arrays = load_file(folder / "model.safetensors")
        kept = arrays["model.layers.0.self_attn.q_proj.weight"]
        assert np.array_equal(kept, source.dequantized("blk.0.attn_q.weight"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, [NewTensor("a", (2,), "F32", 8, lambda: np.zeros(2, np.float32))])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="4 bytes, 8 announced"):
        write_safetensors(path, [NewTensor("a", (2,), "F32", 8, lambda: np.zeros(1, np.float32))])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_bf16_rounds_to_nearest_even() -> None:
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    bits[:4] = [0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x80000000]  # ties, overflow, -0
    values = bits.view(np.float32)
    expected = torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
    nan = np.isnan(values)
    assert np.array_equal(to_bf16(values)[~nan], expected[~nan])
    assert np.isnan((to_bf16(values)[nan].astype(np.uint32) << 16).view(np.float32)).all()


def test_row_order_is_a_permutation_that_undoes_interleaving() -> None:
    halves = np.arange(24).reshape(3, 2, 4)  # heads, halves, rows
    interleaved = halves.swapaxes(1, 2).reshape(-1)
    assert np.array_equal(interleaved[rotate_half_order(24, 3)], np.arange(24))
