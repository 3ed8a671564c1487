"""A model's configuration out of a Hugging Face `config.json`, in the old and the new way of writing rope.

Absent keys take the value that the model's own configuration class gives them; the table below holds those
that published files leave out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from trimtab.errors import BadFile, Unsupported
from trimtab.models.config import ModelConfig, Rope, embedding_shape, unsupported_architecture
from trimtab.models.fields import MOST, Fields

if TYPE_CHECKING:
    from trimtab.formats.source import TensorSource

MODEL_TYPES = {
    "llama": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2",
    "gemma3": "gemma3", "gemma3_text": "gemma3", "phi3": "phi3",
}  # fmt: skip

GEMMA: dict[str, Any] = {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256, "sliding_window": 4096, "tie_word_embeddings": True,
}  # fmt: skip

DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32_768, "sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {
        "max_position_embeddings": 32_768, "sliding_window": 4096, "max_window_layers": 28, "head_dim": 128,
    },
    "gemma2": GEMMA | {
        "max_position_embeddings": 8192, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    },
    "gemma3": GEMMA | {"max_position_embeddings": 131_072},
    "phi3": {
        "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    },
}  # fmt: skip

ACTIVATIONS: dict[str, Literal["silu", "gelu_tanh"]] = {
    "silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
}  # fmt: skip

LAYER_TYPES = {"full_attention": False, "sliding_attention": True}

EMBEDDINGS = (
    "model.embed_tokens.weight", "language_model.model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight", "embed_tokens.weight",
)  # fmt: skip


def read_hf(source: TensorSource) -> ModelConfig:
    """The configuration of a Hugging Face folder."""
    raw = source.metadata
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise unsupported_architecture(model_type)
    architecture = MODEL_TYPES[model_type]
    text: Mapping[str, Any] = raw
    if isinstance(raw.get("text_config"), Mapping):  # the language part of a multimodal model
        text = {key: raw[key] for key in ("tie_word_embeddings",) if key in raw} | dict(raw["text_config"])
    # Null switches a thing off (a window, a cap), so only an absent key takes the class's value.
    fields = Fields(source.path, DEFAULTS[architecture] | dict(text))

    layers = fields.count("num_hidden_layers", MOST["layers"])
    hidden = fields.count("hidden_size", MOST["width"])
    heads = fields.count("num_attention_heads", MOST["heads"])
    head_dim = fields.count("head_dim", MOST["head_dim"], max(1, hidden // heads))
    vocab_size = _vocab_size(source, fields, hidden)
    gemma = architecture in ("gemma2", "gemma3")
    activation = fields.text("hidden_activation", "gelu_new") if gemma else fields.text("hidden_act", "silu")
    if activation not in ACTIVATIONS:
        raise Unsupported(f"activation {activation[:60]!r} in {source.path} is not supported")
    if gemma and fields.flag("use_bidirectional_attention", False):
        raise Unsupported(f"{source.path} attends in both directions; only decoders are supported")
    score_width = fields.positive("query_pre_attn_scalar", 256) if gemma else head_dim
    local = _local_layers(fields, architecture, layers)
    window = fields.count("sliding_window", MOST["context"], 0, least=0)
    ropes = [_rope(fields, architecture, head_dim, "full_attention")]
    if architecture == "gemma3":
        ropes.append(_rope(fields, architecture, head_dim, "sliding_attention"))
    return ModelConfig(
        architecture=architecture,
        name=source.path.name,
        vocab_size=vocab_size,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=fields.count("num_key_value_heads", MOST["heads"], heads),
        head_dim=head_dim,
        mlp=fields.count("intermediate_size", MOST["width"]),
        context=fields.count("max_position_embeddings", MOST["context"]),
        norm_eps=fields.positive("rms_norm_eps", 1e-6),
        tied=fields.flag("tie_word_embeddings", False),
        activation=ACTIVATIONS[activation],
        attention_scale=1.0 / math.sqrt(score_width),
        attention_softcap=fields.number("attn_logit_softcapping", 0.0) if gemma else 0.0,
        final_softcap=fields.number("final_logit_softcapping", 0.0) if gemma else 0.0,
        embed_scale=math.sqrt(hidden) if gemma else 1.0,
        windows=tuple(window if is_local else 0 for is_local in local),
        ropes=tuple(ropes),
        rope_of_layer=tuple(int(len(ropes) > 1 and is_local) for is_local in local),
        norm_offset=1.0 if gemma else 0.0,
    )


def _vocab_size(source: TensorSource, fields: Fields, hidden: int) -> int:
    names = frozenset(source.names())
    table = next((name for name in EMBEDDINGS if name in names), None)
    if table is None:
        looked = ", ".join(f"`{name}`" for name in EMBEDDINGS)
        raise BadFile(source.path, f"no embedding table; looked for {looked}")
    rows, columns = embedding_shape(source, table)
    stated = fields.count("vocab_size", MOST["vocab"], rows)
    if columns != hidden or rows != stated:
        raise BadFile(source.path, f"`{table}` is {rows} x {columns}; config.json says {stated} x {hidden}")
    return rows


def _local_layers(fields: Fields, architecture: str, layers: int) -> tuple[bool, ...]:
    """Which layers attend through the sliding window."""
    if architecture in ("llama", "mistral", "phi3"):
        return (architecture != "llama",) * layers
    if architecture in ("qwen2", "qwen3") and not fields.flag("use_sliding_window", False):
        return (False,) * layers
    kinds = fields.raw("layer_types")
    if kinds is not None:
        local = [LAYER_TYPES.get(str(kind)) for kind in kinds] if isinstance(kinds, list) else []
        if len(local) != layers or None in local:
            raise fields.bad("layer_types", kinds, f"{layers} names out of {', '.join(LAYER_TYPES)}")
        return tuple(bool(one) for one in local)
    if architecture in ("qwen2", "qwen3"):
        first = fields.count("max_window_layers", MOST["layers"], 0, least=0)
        return tuple(layer >= first for layer in range(layers))
    period = fields.count("sliding_window_pattern", MOST["layers"], 6) if architecture == "gemma3" else 2
    return tuple((layer + 1) % period != 0 for layer in range(layers))


def _rope(fields: Fields, architecture: str, head_dim: int, layer_type: str) -> Rope:
    """The rotation of one kind of layer; Transformers decides which place of several counts."""
    given: Fields | None = None
    for key in ("rope_scaling", "rope_parameters"):
        place = fields.inside(key)
        if place is None or not place.values:
            continue
        if isinstance(place.raw(layer_type), Mapping):
            given = place.inside(layer_type)
        elif architecture != "gemma3" or (key == "rope_scaling" and layer_type == "full_attention"):
            given = place
        if given is not None:
            break
    settings = given or Fields(fields.path, {})
    if architecture == "gemma3" and layer_type == "sliding_attention":
        theta = fields.positive("rope_local_base_freq", 10_000.0)
    else:
        theta = fields.positive("rope_theta", 1_000_000.0 if architecture == "gemma3" else 10_000.0)
    kind = settings.text("rope_type", settings.text("type", "default"))
    if architecture == "phi3" and kind in ("su", "yarn"):
        kind = "longrope"  # names of the first published files
    partial = settings.positive("partial_rotary_factor", fields.positive("partial_rotary_factor", 1.0))
    if partial != 1.0 and (architecture != "phi3" or partial > 1.0):
        raise Unsupported(f"partial rotary factor {partial:g} of a {architecture} model is not supported")
    return _scaled(fields, settings, kind, settings.positive("rope_theta", theta), int(head_dim * partial))


def _scaled(fields: Fields, settings: Fields, kind: str, theta: float, dim: int) -> Rope:
    context = fields.count("max_position_embeddings", MOST["context"])
    original = fields.count(
        "original_max_position_embeddings",
        MOST["context"],
        settings.count("original_max_position_embeddings", MOST["context"], context),
    )
    rope: dict[str, Any] = {"theta": theta, "dim": dim, "kind": kind}
    if kind == "default":
        return Rope(theta, dim)
    if kind == "linear":
        return Rope(**rope, factor=settings.positive("factor"))
    if kind == "dynamic":
        return Rope(**rope, factor=settings.positive("factor"), original_context=context)
    if kind == "llama3":
        return Rope(
            **rope,
            factor=settings.positive("factor"),
            original_context=original,
            low_freq_factor=settings.positive("low_freq_factor"),
            high_freq_factor=settings.positive("high_freq_factor"),
        )
    has_attention_factor = settings.raw("attention_factor") is not None
    stretched: dict[str, Any] = {
        "factor": settings.positive("factor", context / original),
        "original_context": original,
        "attention_factor": settings.number("attention_factor") if has_attention_factor else None,
    }
    if kind == "longrope":
        short, long = settings.numbers("short_factor"), settings.numbers("long_factor")
        return Rope(**rope, **stretched, short_factor=short, long_factor=long)
    if kind == "yarn":
        return Rope(
            **rope,
            **stretched,
            beta_fast=settings.number("beta_fast", 0.0) or 32.0,
            beta_slow=settings.number("beta_slow", 0.0) or 1.0,
            mscale=settings.number("mscale", 0.0),
            mscale_all_dim=settings.number("mscale_all_dim", 0.0),
            truncate=settings.flag("truncate", True),
        )
    raise Unsupported(f"rope scaling {kind[:60]!r} in {fields.path} is not supported")
