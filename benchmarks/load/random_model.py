"""A model folder with random weights: right in shape and therefore in time, and in nothing else (shape-only).

Safetensors are written by hand: a length, a JSON header, the numbers. The tokenizer knows bytes only.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

SHAPE = {
    "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 16_384,
}  # fmt: skip


def make(folder: Path, seed: int) -> Path:
    """Write the folder; about 180 MB of bf16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
        **SHAPE,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    _write(folder / "model.safetensors", _tensors(), np.random.default_rng(seed))
    return folder


def _tensors() -> dict[str, tuple[int, ...]]:
    hidden, mlp, size = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["head_dim"]
    wide, narrow = SHAPE["num_attention_heads"] * size, SHAPE["num_key_value_heads"] * size
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (SHAPE["vocab_size"], hidden), "model.norm.weight": (hidden,),
    }  # fmt: skip
    for layer in range(SHAPE["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        found |= {
            f"{at}input_layernorm.weight": (hidden,), f"{at}post_attention_layernorm.weight": (hidden,),
            f"{at}self_attn.q_proj.weight": (wide, hidden), f"{at}self_attn.k_proj.weight": (narrow, hidden),
            f"{at}self_attn.v_proj.weight": (narrow, hidden), f"{at}self_attn.o_proj.weight": (hidden, wide),
            f"{at}mlp.gate_proj.weight": (mlp, hidden), f"{at}mlp.up_proj.weight": (mlp, hidden),
            f"{at}mlp.down_proj.weight": (hidden, mlp),
        }  # fmt: skip
    return found


def _write(path: Path, tensors: dict[str, tuple[int, ...]], draw: np.random.Generator) -> None:
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors.items():
            values = np.ones(shape, np.float32)
            if not name.endswith("norm.weight"):
                values = draw.standard_normal(shape, dtype=np.float32) * 0.02
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())  # bf16: the upper half
