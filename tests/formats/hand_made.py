"""GGUF and safetensors files byte by byte, so that tests can put anything into any field.

`Bytes` remembers where every number lies; the fuzz tests aim at those places.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
CODES = "BbHhIif?\0\0Qqd"

KeyValue = tuple[str, int, Any]
Tensor = tuple[str, tuple[int, ...], int, bytes]
"""Name, dimensions as stored (innermost first), type number, data."""


class Bytes:
    """A growing file that remembers where its numbers are."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.fields: list[tuple[int, int]] = []  # position and width

    def number(self, code: str, value: Any) -> None:
        self.fields.append((len(self.data), struct.calcsize(code)))
        self.data += struct.pack("<" + code, value)

    def text(self, value: str | bytes) -> None:
        encoded = value.encode() if isinstance(value, str) else value
        self.number("Q", len(encoded))
        self.data += encoded

    def value(self, kind: int, value: Any) -> None:
        if kind == STRING:
            self.text(value)
        elif kind == ARRAY:
            inner, entries = value
            self.number("I", inner)
            self.number("Q", len(entries))
            for entry in entries:
                self.value(inner, entry)
        else:
            self.number(CODES[kind], value)


def gguf_bytes(
    metadata: list[KeyValue], tensors: list[Tensor], *, version: int = 3, alignment: int = 32
) -> Bytes:
    """A GGUF file; tensors are laid out one after the other."""
    file = Bytes()
    file.data += b"GGUF"
    file.number("I", version)
    file.number("Q", len(tensors))
    file.number("Q", len(metadata))
    for key, kind, value in metadata:
        file.text(key)
        file.number("I", kind)
        file.value(kind, value)
    offset = 0
    for name, shape, kind, data in tensors:
        file.text(name)
        file.number("I", len(shape))
        for size in shape:
            file.number("Q", size)
        file.number("I", kind)
        file.number("Q", offset)
        offset += -(-len(data) // alignment) * alignment
    for *_, data in tensors:
        file.data += b"\0" * (-len(file.data) % alignment) + data
    return file


def small_gguf(seed: int = 0) -> Bytes:
    """A llama GGUF with a value of every metadata type and tensors of several block types."""
    random = np.random.default_rng(seed)

    def block(count: int) -> bytes:
        return random.integers(0, 64, count, dtype=np.uint8).tobytes()

    tokens = ["<s>", "</s>", "a", "b", "ab", "é", "Ġa"]
    metadata: list[KeyValue] = [
        ("general.architecture", STRING, "llama"),
        ("general.alignment", UINT32, 32),
        ("llama.block_count", UINT32, 1),
        ("llama.context_length", UINT64, 64),
        ("llama.embedding_length", UINT32, 32),
        ("llama.feed_forward_length", UINT16, 64),
        ("llama.attention.head_count", INT32, 2),
        ("llama.attention.head_count_kv", UINT8, 1),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        ("llama.rope.freq_base", FLOAT64, 1e4),
        ("test.byte", INT8, -3),
        ("test.short", INT16, -300),
        ("test.long", INT64, -(1 << 40)),
        ("test.nested", ARRAY, (ARRAY, [(UINT8, [1, 2]), (STRING, ["x", ""])])),
        ("test.flags", ARRAY, (BOOL, [True, False])),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "smollm"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (INT32, [3, 3, 1, 1, 1, 1, 1])),
        ("tokenizer.ggml.merges", ARRAY, (STRING, ["a b"])),
        ("tokenizer.ggml.bos_token_id", UINT32, 0),
        ("tokenizer.ggml.eos_token_id", UINT32, 1),
        ("tokenizer.ggml.add_bos_token", BOOL, False),
        ("tokenizer.chat_template", STRING, "{{ messages[0].content }}"),
    ]
    tensors: list[Tensor] = [
        ("token_embd.weight", (32, 7), 8, block(7 * 34)),
        ("blk.0.attn_norm.weight", (32,), 0, block(128)),
        ("blk.0.attn_q.weight", (32, 32), 3, block(32 * 20)),
        ("blk.0.ffn_down.weight", (64, 3), 1, block(384)),
        ("output_norm.weight", (32,), 30, block(64)),
        ("k.weight", (256, 1), 14, block(210)),
    ]
    return gguf_bytes(metadata, tensors)


CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 6,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip

SMALL_TENSORS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "model.embed_tokens.weight": ("BF16", (6, 8), 96),
    "model.norm.weight": ("F32", (8,), 32),
    "model.layers.0.self_attn.q_proj.weight": ("F16", (8, 8), 128),
    "model.scalar": ("I64", (), 8),
    "model.empty": ("F32", (0, 3), 0),
}


def safetensors_header(
    tensors: dict[str, tuple[str, tuple[int, ...], int]] = SMALL_TENSORS,
) -> dict[str, Any]:
    """The header of a file with these tensors (type, shape, bytes), one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape, nbytes) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + nbytes]}
        position += nbytes
    return header


def safetensors_bytes(header: Any, data: bytes) -> bytes:
    """A file of a header (text as it is, anything else as JSON) and the bytes after it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def small_safetensors(seed: int = 0) -> bytes:
    count = sum(nbytes for *_, nbytes in SMALL_TENSORS.values())
    data = np.random.default_rng(seed).integers(0, 64, count, dtype=np.uint8).tobytes()
    return safetensors_bytes(safetensors_header(), data)


def small_folder(folder: Path, weights: bytes | None = None) -> Path:
    """A folder with a `config.json` and one file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(small_safetensors() if weights is None else weights)
    return folder
