"""Phi-3 and Phi-4-mini: Llama's layer with a window, LongRoPE and, in some sizes, partly rotated heads.

The fused projections of its checkpoints are taken apart in `models.weights`.
"""

from __future__ import annotations

from trimtab.kernels.ops import Ops, Value
from trimtab.models.config import ModelConfig
from trimtab.models.weights import ModelWeights


def forward(ops: Ops, config: ModelConfig, weights: ModelWeights) -> Value:
    """Logits of the batch's wanted rows."""
    heads, kv_heads, head_dim = config.heads, config.kv_heads, config.head_dim
    eps = config.norm_eps
    x = ops.embed(weights.embed, scale=config.embed_scale)  # (rows, hidden)
    for index, layer in enumerate(weights.layers):
        h = ops.norm(x, layer.attn_norm, eps)
        qkv = ops.linear(h, layer.qkv, bias=layer.qkv_bias)  # (rows, (heads + 2 kv_heads) head_dim)
        rope = config.ropes[config.rope_of_layer[index]]
        q = ops.rope_store(qkv, index, heads=heads, kv_heads=kv_heads, head_dim=head_dim, rope=rope)
        h = ops.attend(
            q,
            index,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=config.attention_scale,
            window=config.windows[index],
        )
        x = ops.linear(h, layer.out, bias=layer.out_bias, add=x)
        h = ops.norm(x, layer.mlp_norm, eps)
        h = ops.gated(h, layer.gate_up, config.activation)  # (rows, mlp)
        x = ops.linear(h, layer.down, add=x)
    return ops.head(x, weights.final_norm, eps, weights.head, softcap=config.final_softcap)
