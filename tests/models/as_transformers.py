"""A GGUF file as a Transformers model, read by the published `gguf` package: nothing is shared with trimtab."""  # noqa: E501

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import torch
import transformers

NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def transformers_model(path: Path, dtype: torch.dtype = torch.float32) -> transformers.LlamaForCausalLM:
    """A llama-architecture GGUF file with tied embeddings as a Transformers model, read by `gguf` alone."""
    reader = gguf.GGUFReader(path)
    held = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}

    def field(key: str) -> int | float:
        value: int | float = reader.get_field(f"llama.{key}").contents()
        return value

    heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    config = transformers.LlamaConfig(
        vocab_size=held["token_embd.weight"].shape[0],
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")},
        max_position_embeddings=field("context_length"),
        tie_word_embeddings=True,
        attn_implementation="eager",
    )

    def halves(name: str, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        count = {"attn_q": heads, "attn_k": kv_heads}.get(name)
        if count is None:
            return array
        return array.reshape(count, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)

    weights = {
        f"model.layers.{layer}.{theirs}.weight": halves(ours, held[f"blk.{layer}.{ours}.weight"])
        for layer in range(config.num_hidden_layers)
        for theirs, ours in NAMES.items()
    }
    weights |= {
        "model.embed_tokens.weight": held["token_embd.weight"],
        "lm_head.weight": held["token_embd.weight"],
        "model.norm.weight": held["output_norm.weight"],
    }
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return model.to(dtype).eval()
