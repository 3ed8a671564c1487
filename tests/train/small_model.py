"""A model of a few thousand numbers, for tests of training."""

from __future__ import annotations

from trimtab.models.config import ModelConfig, Rope


def tiny_config(layers: int = 2, context: int = 64) -> ModelConfig:
    return ModelConfig(
        architecture="llama", name="tiny", vocab_size=96, hidden=64, layers=layers, heads=4, kv_heads=2,
        head_dim=16, mlp=96, context=context, norm_eps=1e-5, tied=True, activation="silu",
        attention_scale=0.25, attention_softcap=0.0, final_softcap=0.0, embed_scale=1.0,
        windows=(0,) * layers, ropes=(Rope(theta=10_000.0, dim=16),), rope_of_layer=(0,) * layers,
        norm_offset=0.0,
    )  # fmt: skip
