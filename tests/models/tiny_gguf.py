"""Tiny GGUF files out of tiny folders, written with the published `gguf` package.

Names come from that package's own table and the row permutation of the llama architecture is written out
here as its converter does it, so a wrong name or a wrong order in trimtab cannot hide.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

Floats = npt.NDArray[np.float32]


def gguf_from(folder: Path, path: Path, quant: str = "F32") -> Path:
    """Write a GGUF file of a tiny folder.

    Parameters
    ----------
    folder : made by `tiny.make_tiny`
    quant : type of every matrix, a name of `gguf.GGMLQuantizationType`; anything but F32 changes the weights,
        so the folder's own are replaced by what the file then holds, and both stay the same model

    Returns
    -------
    path
    """
    config = json.loads((folder / "config.json").read_text())
    kind = config["model_type"].removesuffix("_text")
    architecture = "llama" if kind == "mistral" else kind
    weights = {
        name: tensor.float().numpy() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    names = gguf.get_tensor_name_map(
        {text: arch for arch, text in gguf.MODEL_ARCH_NAMES.items()}[architecture],
        config["num_hidden_layers"],
    )
    writer = gguf.GGUFWriter(path, architecture)
    _write_metadata(writer, config, architecture)
    kept: dict[str, Floats] = {}
    for name, array in weights.items():
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        stored = _stored(array, name, config, architecture)
        if array.ndim == 2 and quant != "F32":
            qtype = gguf.GGMLQuantizationType[quant]
            packed = gguf.quants.quantize(stored, qtype)
            writer.add_tensor(new, packed, raw_dtype=qtype)
            held = gguf.quants.dequantize(packed, qtype)
            kept[name] = held[_inverse(_permutation(array.shape[0], name, config, architecture))]
        else:
            writer.add_tensor(new, stored.astype(np.float32))
            kept[name] = array
    for name, array in _rope_tensors(config).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if quant != "F32":
        tensors = {name: torch.tensor(array) for name, array in kept.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    return path


def _write_metadata(writer: gguf.GGUFWriter, config: dict[str, Any], architecture: str) -> None:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if config.get("query_pre_attn_scalar"):
        writer.add_attention_scale(config["query_pre_attn_scalar"] ** -0.5)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if "original_max_position_embeddings" in rope:
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _rope_tensors(config: dict[str, Any]) -> dict[str, Floats]:
    rope = config["rope_parameters"]
    if rope.get("rope_type") != "longrope":
        return {}
    return {f"rope_factors_{n}.weight": np.array(rope[f"{n}_factor"], np.float32) for n in ("short", "long")}


def _stored(array: Floats, name: str, config: dict[str, Any], architecture: str) -> Floats:
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return array + 1
    return np.ascontiguousarray(array[_permutation(array.shape[0], name, config, architecture)])


def _permutation(rows: int, name: str, config: dict[str, Any], architecture: str) -> npt.NDArray[np.int64]:
    """Row of the folder's tensor that each row of the file's tensor holds."""
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    role = name.rsplit(".", 2)[-2].removesuffix("_proj")
    if architecture != "llama" or role not in heads:
        return np.arange(rows)
    return np.arange(rows).reshape(heads[role], 2, -1).swapaxes(1, 2).reshape(-1)


def _inverse(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.argsort(order)
