"""A model's configuration out of GGUF metadata, whose keys carry the architecture as prefix.

GGUF stores some constants in the reader instead of the file (Gemma's window pattern and its local rope base);
they stand here as named constants.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trimtab.errors import BadFile, Unsupported
from trimtab.models.config import (
    ARCHITECTURE_NAMES,
    ModelConfig,
    Rope,
    embedding_shape,
    unsupported_architecture,
)
from trimtab.models.fields import MOST, Fields, is_list

if TYPE_CHECKING:
    from trimtab.formats.source import TensorSource

WINDOW_PERIOD = {"gemma2": 2, "gemma3": 6}  # the last layer of each period sees everything
GEMMA2_WINDOW = 4_096
GEMMA3_LOCAL_THETA = 10_000.0
# Layers of the two 27B models: their scores are scaled by hidden / heads instead of the head's width.
SCALED_BY_HIDDEN = {"gemma2": 46, "gemma3": 62}


def read_gguf(source: TensorSource) -> ModelConfig:
    """The configuration of a GGUF file."""
    metadata = source.metadata
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURE_NAMES:
        if architecture is None:
            raise BadFile(source.path, "`general.architecture` is missing")
        raise unsupported_architecture(architecture)
    fields = Fields(source.path, metadata, f"{architecture}.")
    if fields.count("expert_count", 1 << 16, 0, least=0):
        raise Unsupported(f"{source.path} is a mixture of experts; only dense models are supported")

    layers = fields.count("block_count", MOST["layers"])
    hidden = fields.count("embedding_length", MOST["width"])
    heads = fields.count("attention.head_count", MOST["heads"])
    head_dim = fields.count("attention.key_length", MOST["head_dim"], max(1, hidden // heads))
    if fields.count("attention.value_length", MOST["head_dim"], head_dim) != head_dim:
        raise Unsupported(f"{source.path} has keys and values of different widths; not supported")
    names = frozenset(source.names())
    if "token_embd.weight" not in names:
        raise BadFile(source.path, "tensor `token_embd.weight` is missing")
    vocab_size, columns = embedding_shape(source, "token_embd.weight")
    if columns != hidden or vocab_size > MOST["vocab"]:
        raise BadFile(source.path, f"embedding table is {vocab_size} x {columns}, model width is {hidden}")

    gemma = architecture in WINDOW_PERIOD
    windows = _windows(fields, architecture, layers)
    ropes = [_rope(source, fields, head_dim, names)]
    if architecture == "gemma3":
        local = fields.positive("rope.freq_base_swa", GEMMA3_LOCAL_THETA)
        ropes.append(Rope(theta=local, dim=ropes[0].dim))
    return ModelConfig(
        architecture=architecture,
        name=str(metadata.get("general.name") or source.path.stem),
        vocab_size=vocab_size,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=fields.count("attention.head_count_kv", MOST["heads"], heads),
        head_dim=head_dim,
        mlp=fields.count("feed_forward_length", MOST["width"]),
        context=fields.count("context_length", MOST["context"]),
        norm_eps=fields.positive("attention.layer_norm_rms_epsilon"),
        tied="output.weight" not in names,
        activation="gelu_tanh" if gemma else "silu",
        attention_scale=_attention_scale(fields, architecture, layers, hidden // heads, head_dim),
        attention_softcap=fields.number("attn_logit_softcapping", 50.0) if architecture == "gemma2" else 0.0,
        final_softcap=fields.number("final_logit_softcapping", 30.0 if architecture == "gemma2" else 0.0),
        embed_scale=math.sqrt(hidden) if gemma else 1.0,
        windows=windows,
        ropes=tuple(ropes),
        rope_of_layer=tuple(int(len(ropes) > 1 and window > 0) for window in windows),
        norm_offset=0.0,  # the converter has added Gemma's offset already
    )


def _attention_scale(fields: Fields, architecture: str, layers: int, share: int, head_dim: int) -> float:
    width = share if SCALED_BY_HIDDEN.get(architecture) == layers else head_dim
    return fields.positive("attention.scale", 1.0 / math.sqrt(width))


def _windows(fields: Fields, architecture: str, layers: int) -> tuple[int, ...]:
    default = GEMMA2_WINDOW if architecture == "gemma2" else 0
    window = fields.count("attention.sliding_window", MOST["context"], default, least=0)
    period = WINDOW_PERIOD.get(architecture, 0)
    pattern = fields.raw("attention.sliding_window_pattern")
    if pattern is not None and not is_list(pattern):
        period = fields.count("attention.sliding_window_pattern", MOST["layers"], least=0)
    elif pattern is not None:
        if len(pattern) != layers:
            raise fields.bad(
                "attention.sliding_window_pattern", pattern, f"one flag for {layers} layers each"
            )
        return tuple(window if local else 0 for local in pattern)
    if period == 0:
        return (window,) * layers
    return tuple(window if (layer + 1) % period else 0 for layer in range(layers))


def _rope(source: TensorSource, fields: Fields, head_dim: int, names: frozenset[str]) -> Rope:
    dim = fields.count("rope.dimension_count", MOST["head_dim"], head_dim)
    context = fields.count("context_length", MOST["context"])
    settings: dict[str, Any] = {"theta": fields.positive("rope.freq_base", 10_000.0), "dim": dim}
    original = fields.count("rope.scaling.original_context_length", MOST["context"], context)
    scale = fields.number("rope.scaling.attn_factor", 1.0)
    if "rope_factors_short.weight" in names and "rope_factors_long.weight" in names:
        return Rope(
            **settings,
            kind="longrope",
            factor=context / original,
            original_context=original,
            attention_factor=scale if fields.raw("rope.scaling.attn_factor") is not None else None,
            short_factor=_factors(source, "rope_factors_short.weight"),
            long_factor=_factors(source, "rope_factors_long.weight"),
        )
    if "rope_freqs.weight" in names:  # Llama 3's smoothing, worked out by the converter: one divisor a pair
        divisors = _factors(source, "rope_freqs.weight")
        return Rope(
            **settings,
            kind="longrope",
            original_context=original,
            attention_factor=1.0,
            short_factor=divisors,
            long_factor=divisors,
        )
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 0.0))
    kind = fields.text("rope.scaling.type", "linear")
    # A factor of 0 is how some writers say "not scaled".
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return Rope(**settings)
    if kind == "linear":
        return Rope(**settings, kind="linear", factor=factor)
    if kind == "yarn":
        settings |= {
            "factor": factor,
            "original_context": original,
            "beta_fast": fields.positive("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": fields.positive("rope.scaling.yarn_beta_slow", 1.0),
        }
        usual = Rope(**settings, kind="yarn").frequencies(context)[1] if factor > 0 else 1.0
        return Rope(**settings, kind="yarn", attention_factor=usual * scale)
    raise Unsupported(
        f"rope scaling {kind[:60]!r} in {source.path} is not supported; known: none, linear, yarn"
    )


def _factors(source: TensorSource, name: str) -> tuple[float, ...]:
    """A small tensor of per-pair divisors."""
    if math.prod(source.info(name).shape) > MOST["head_dim"]:
        raise BadFile(source.path, f"tensor `{name}` has shape {tuple(source.info(name).shape)}; too large")
    return tuple(float(value) for value in source.dequantized(name).reshape(-1))
