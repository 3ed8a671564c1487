"""A made-up model of a few million weights, for benchmarks of training."""

from __future__ import annotations

from trimtab.models.config import ModelConfig, Rope


def small(layers: int, hidden: int, vocab: int) -> ModelConfig:
    """A llama of a few million weights."""
    return ModelConfig(
        architecture="llama", name=f"{layers}x{hidden}", vocab_size=vocab, hidden=hidden, layers=layers,
        heads=hidden // 64, kv_heads=hidden // 64, head_dim=64, mlp=hidden * 8 // 3 // 32 * 32,
        context=2048, norm_eps=1e-5, tied=True, activation="silu", attention_scale=0.125,
        attention_softcap=0.0, final_softcap=0.0, embed_scale=1.0, windows=(0,) * layers,
        ropes=(Rope(theta=10_000.0, dim=64),), rope_of_layer=(0,) * layers, norm_offset=0.0,
    )  # fmt: skip
