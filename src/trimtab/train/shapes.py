"""Shapes of models that exist nowhere yet: what pre-training starts from."""

from __future__ import annotations

from trimtab.models.config import ModelConfig, Rope

HEAD = 64


def llama_shape(layers: int, hidden: int, vocab: int, context: int = 2048) -> ModelConfig:
    """A llama with heads of 64, a feed-forward part of 8/3 of `hidden`, and a tied head.

    Parameters
    ----------
    hidden : a multiple of 64
    """
    heads = hidden // HEAD
    return ModelConfig(
        architecture="llama", name=f"{layers}x{hidden}", vocab_size=vocab, hidden=hidden, layers=layers,
        heads=heads, kv_heads=heads, head_dim=HEAD, mlp=hidden * 8 // 3 // 32 * 32, context=context,
        norm_eps=1e-5, tied=True, activation="silu", attention_scale=HEAD**-0.5, attention_softcap=0.0,
        final_softcap=0.0, embed_scale=1.0, windows=(0,) * layers,
        ropes=(Rope(theta=10_000.0, dim=HEAD),), rope_of_layer=(0,) * layers, norm_offset=0.0,
    )  # fmt: skip
