"""Writes a model as a Hugging Face folder, its weights widened to bf16 or float32.

This is how another program gets exactly the weights of a GGUF file, for comparison. Quantized tensors
become the values they stand for; llama's query and key rows, which GGUF interleaves, return to their order.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trimtab.errors import BadFile, Unsupported, UsageError
from trimtab.formats.folders import inside
from trimtab.formats.ggml_types import GGUF_TYPES
from trimtab.formats.source import TensorSource

Wide = Literal["bf16", "f32"]
DTYPES: dict[Wide, tuple[str, str, int]] = {"bf16": ("BF16", "bfloat16", 2), "f32": ("F32", "float32", 4)}

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

TOP_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
}  # fmt: skip
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
SETTINGS = {
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers", "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads", "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}  # fmt: skip
SPECIAL_TOKENS = {
    "bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}  # fmt: skip
COPIED = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "vocab.json",
    "merges.txt", "added_tokens.json", "chat_template.jinja", "generation_config.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written.

    Parameters
    ----------
    name, shape, dtype : as in the file's header
    nbytes : what `read` will give
    read : makes the values, when their turn comes
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    read: Callable[[], npt.NDArray[Any]]


def export_folder(
    source: TensorSource,
    folder: Path,
    *,
    dtype: Wide = "bf16",
    tokenizer: Callable[[Path], None] | None = None,
) -> Path:
    """Write `config.json`, `model.safetensors` and what there is of a tokenizer into a new folder.

    Parameters
    ----------
    source : the model; a GGUF file must be of the llama, qwen2 or qwen3 architecture
    folder : must not exist; appears only when it is complete
    dtype : of every floating-point tensor; tensors of whole numbers are copied
    tokenizer : called with the unfinished folder to add `tokenizer.json`, which a GGUF file does not contain

    Raises
    ------
    UsageError : the folder exists
    Unsupported : an architecture or rope scaling that has no translation here
    """
    if folder.exists():
        raise UsageError(f"{folder} exists already", "name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        if source.kind == "gguf":
            config, tensors = _gguf_config(source), _gguf_tensors(source, dtype)
            _write_json(partial / "tokenizer_config.json", _gguf_tokenizer_config(source))
        else:
            config = dict(source.metadata)
            tensors = [_widened(source, name, name, dtype) for name in source.names()]
            for name in COPIED:
                if (source.path / name).exists():
                    shutil.copyfile(inside(source.path, name), partial / name)
        config.pop("torch_dtype", None)
        _write_json(partial / "config.json", config | {"dtype": DTYPES[dtype][1]})
        write_safetensors(partial / "model.safetensors", tensors)
        if tokenizer is not None:
            tokenizer(partial)
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def write_safetensors(path: Path, tensors: Sequence[NewTensor]) -> None:
    """Write one safetensors file, a tensor at a time; it appears only when it is complete."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        if tensor.name in header:
            raise UsageError(f"two tensors are called `{tensor.name}`")
        span = [position, position + tensor.nbytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": span}
        position += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors:
                values = np.ascontiguousarray(tensor.read())
                if values.nbytes != tensor.nbytes:
                    raise ValueError(f"`{tensor.name}` has {values.nbytes} bytes, {tensor.nbytes} announced")
                file.write(values.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of the nearest bf16, ties to even; a NaN stays one."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    kept = np.where(np.isnan(values), bits >> np.uint32(16) | np.uint32(0x40), rounded)
    return kept.astype(np.uint16)


def _widened(
    source: TensorSource, name: str, new_name: str, dtype: Wide, order: npt.NDArray[np.int64] | None = None
) -> NewTensor:
    info = source.info(name)
    if info.dtype not in GGUF_TYPES:
        return NewTensor(new_name, info.shape, info.dtype, info.nbytes, lambda: source.raw(name))
    stored, _, width = DTYPES[dtype]

    def read() -> npt.NDArray[Any]:
        values = source.dequantized(name)
        source.release(name)
        values = values if order is None else values[order]
        return values if dtype == "f32" else to_bf16(values)

    count = int(np.prod(info.shape, dtype=np.int64))
    return NewTensor(new_name, info.shape, stored, count * width, read)


def _gguf_tensors(source: TensorSource, dtype: Wide) -> list[NewTensor]:
    config = _gguf_config(source)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = []
    for name in source.names():
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
        layer, role, kind = match.groups() if match else (None, "", "")
        names = TOP_NAMES if layer is None else LAYER_NAMES
        if role not in names:
            raise Unsupported(f"tensor `{name}` of {source.path} has no place in a Hugging Face folder")
        order = None
        if config["model_type"] == "llama" and role in heads:
            order = rotate_half_order(source.info(name).shape[0], heads[role])
        prefix = "" if layer is None else f"model.layers.{layer}."
        tensors.append(_widened(source, name, f"{prefix}{names[role]}.{kind}", dtype, order))
    return tensors


def rotate_half_order(rows: int, heads: int) -> npt.NDArray[np.int64]:
    """Rows of a GGUF llama query or key matrix in Hugging Face order.

    GGUF keeps the two rows that rope turns together side by side; Hugging Face has each head's first halves,
    then its second halves.
    """
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _gguf_config(source: TensorSource) -> dict[str, Any]:
    metadata, names = source.metadata, frozenset(source.names())
    architecture = metadata.get("general.architecture")
    if architecture not in CLASSES:
        known = ", ".join(CLASSES)
        raise Unsupported(f"{source.path} has the architecture {architecture!r}; exported are {known}")
    if metadata.get(f"{architecture}.rope.scaling.type", "none") != "none" or "rope_freqs.weight" in names:
        raise Unsupported(f"{source.path} scales its rope, which has no translation here")
    config: dict[str, Any] = {"architectures": [CLASSES[architecture]], "model_type": architecture}
    for key, new in SETTINGS.items():
        config[new] = metadata.get(f"{architecture}.{key}")
        if isinstance(config[new], bool) or not isinstance(config[new], int | float):
            raise BadFile(source.path, f"`{architecture}.{key}` is no number")
    width = config["hidden_size"] // max(1, config["num_attention_heads"])
    config |= {
        "head_dim": metadata.get(f"{architecture}.attention.key_length", width),
        "rope_theta": metadata.get(f"{architecture}.rope.freq_base", 10_000.0),
        "vocab_size": source.info("token_embd.weight").shape[0],
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": architecture == "llama" and "blk.0.attn_q.bias" in names,
        "hidden_act": "silu",
    }
    for new in ("bos_token_id", "eos_token_id"):
        config[new] = metadata.get(f"tokenizer.ggml.{new}")
    return config


def _gguf_tokenizer_config(source: TensorSource) -> dict[str, Any]:
    """Special tokens and chat template, as `tokenizer_config.json` has them."""
    tokens = source.metadata.get("tokenizer.ggml.tokens", [])
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, key in SPECIAL_TOKENS.items():
        index = source.metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(index, int) and 0 <= index < len(tokens):
            config[name] = tokens[index]
    if "tokenizer.chat_template" in source.metadata:
        config["chat_template"] = source.metadata["tokenizer.chat_template"]
    return config


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
