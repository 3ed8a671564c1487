"""A small model with the default model's tokenizer and a chat template of one's own, as a GGUF file."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

HIDDEN, MLP, HEADS, KV_HEADS = 32, 64, 2, 1
SHAPE = {
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": MLP,
    "llama.block_count": 1,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.rope.dimension_count": HIDDEN // HEADS,
    "llama.context_length": 512,
}
TEMPLATE = "tokenizer.chat_template"


def small_model(default: Path, path: Path, template: str) -> Path:
    """Write it.

    Parameters
    ----------
    default : the file whose metadata is copied
    template : Jinja text

    Returns
    -------
    path
    """
    reader = gguf.GGUFReader(default)
    writer = gguf.GGUFWriter(path, "llama")
    changed = SHAPE | {TEMPLATE: template}
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(name, changed.get(name, field.contents()), kind, inner)
    random = np.random.default_rng(0)
    key_rows = HIDDEN // HEADS * KV_HEADS
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
    matrices = {
        "token_embd": (vocabulary, HIDDEN),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (key_rows, HIDDEN),
        "blk.0.attn_v": (key_rows, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate": (MLP, HIDDEN),
        "blk.0.ffn_up": (MLP, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, MLP),
    }
    for name, shape in matrices.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float16))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
