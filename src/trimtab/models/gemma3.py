"""Gemma 3 (text): Gemma 2's layer with normed query and key heads instead of soft caps.

Windowed layers rotate with their own base frequency, which `config.rope_of_layer` chooses.
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
        q = ops.rope_store(
            qkv,
            index,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            rope=rope,
            q_norm=layer.q_norm,
            k_norm=layer.k_norm,
            eps=eps,
        )
        h = ops.attend(
            q,
            index,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=config.attention_scale,
            window=config.windows[index],
            softcap=config.attention_softcap,
        )
        h = ops.linear(h, layer.out, bias=layer.out_bias)
        x = ops.add(x, ops.norm(h, layer.post_attn_norm, eps))
        h = ops.norm(x, layer.mlp_norm, eps)
        h = ops.gated(h, layer.gate_up, config.activation)  # (rows, mlp)
        h = ops.linear(h, layer.down)
        x = ops.add(x, ops.norm(h, layer.post_mlp_norm, eps))
    return ops.head(x, weights.final_norm, eps, weights.head, softcap=config.final_softcap)
