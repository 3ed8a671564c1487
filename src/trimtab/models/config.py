"""What a decoder model is, in numbers: read from GGUF metadata or from a Hugging Face `config.json`.

One frozen record serves every architecture, so the modules that use it stay short. It holds no weights and
never guesses: a missing or absurd value is an error that names the file and the key.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trimtab.errors import BadFile, Unsupported
from trimtab.models.rope import Rope

if TYPE_CHECKING:
    from trimtab.formats.source import TensorSource

__all__ = ["ARCHITECTURE_NAMES", "ModelConfig", "Rope", "config_from"]

ARCHITECTURE_NAMES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape and constants of one decoder.

    Parameters
    ----------
    vocab_size : rows of the embedding table (the tokenizer may know fewer tokens)
    mlp : inner width of the gated feed-forward part
    context : positions the model was made for
    attention_softcap, final_softcap : 0 where scores and logits are not capped
    embed_scale : factor on the embedding (Gemma: the square root of `hidden`)
    windows : per layer, how many positions a token sees, itself included; 0 sees all
    ropes, rope_of_layer : the kinds of rotation, and which one each layer uses
    norm_offset : 1.0 where norm weights are stored as w - 1 (Gemma's safetensors)
    """

    architecture: str
    name: str
    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    context: int
    norm_eps: float
    tied: bool
    activation: Literal["silu", "gelu_tanh"]
    attention_scale: float
    attention_softcap: float
    final_softcap: float
    embed_scale: float
    windows: tuple[int, ...]
    ropes: tuple[Rope, ...]
    rope_of_layer: tuple[int, ...]
    norm_offset: float

    @property
    def q_width(self) -> int:
        """Rows of the query projection."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Rows of the key projection, and of the value projection."""
        return self.kv_heads * self.head_dim


def config_from(source: TensorSource) -> ModelConfig:
    """Read a model's configuration and check it against itself and the embedding table.

    Raises
    ------
    BadFile : a value is missing, absurd, or contradicts another one or the tensors
    Unsupported : a sound model of a kind that trimtab does not run
    """
    # Imported when asked for: they import this module.
    if source.kind == "gguf":
        from trimtab.models.config_gguf import read_gguf

        config = read_gguf(source)
    else:
        from trimtab.models.config_hf import read_hf

        config = read_hf(source)
    _check(config, source.path)
    return config


def embedding_shape(source: TensorSource, name: str) -> tuple[int, int]:
    """Rows and columns of the embedding table, which bound the vocabulary."""
    shape = source.info(name).shape
    if len(shape) != 2 or min(shape) < 1:
        raise BadFile(source.path, f"embedding table `{name}` has shape {tuple(shape)}; it must be a matrix")
    return int(shape[0]), int(shape[1])


def unsupported_architecture(name: object) -> Unsupported:
    """The error for a model of another kind."""
    return Unsupported(
        f"models of architecture {reprlib.repr(name)} are not supported",
        hint=f"supported: {', '.join(ARCHITECTURE_NAMES)}",
    )


def _check(config: ModelConfig, path: Path) -> None:
    """Refuse values that contradict one another; single values were bounded when they were read."""
    if config.heads % config.kv_heads:
        raise BadFile(path, f"{config.heads} heads cannot share {config.kv_heads} key-value heads evenly")
    if config.head_dim % 2:
        raise BadFile(path, f"head dimension {config.head_dim} is odd; rotary embedding needs pairs")
    for rope in config.ropes:
        if rope.dim % 2 or not 0 < rope.dim <= config.head_dim:
            raise BadFile(path, f"rotated dimensions {rope.dim} do not fit a head of {config.head_dim}")
        _check_rope(rope, path)
    if len(config.windows) != config.layers or len(config.rope_of_layer) != config.layers:
        raise BadFile(path, f"attention kinds of {len(config.windows)} layers for {config.layers} layers")


def _check_rope(rope: Rope, path: Path) -> None:
    """Every number that the frequencies divide by or take a logarithm of."""
    if rope.theta <= 1:
        raise BadFile(path, f"rope base {rope.theta:g} is not above 1")
    if rope.factor <= 0:
        raise BadFile(path, f"rope scaling factor {rope.factor:g} is not positive")
    if rope.kind == "dynamic" and rope.dim <= 2:
        raise BadFile(path, "dynamic rope scaling needs more than two rotated dimensions")
    if rope.kind in ("dynamic", "llama3", "yarn", "longrope") and rope.original_context < 2:
        raise BadFile(path, f"{rope.kind} rope scaling without the original context length")
    if rope.kind == "llama3" and not 0 < rope.low_freq_factor < rope.high_freq_factor:
        low, high = rope.low_freq_factor, rope.high_freq_factor
        raise BadFile(path, f"llama3 rope factors {low:g} and {high:g} are not in order")
    if rope.kind == "yarn" and not 0 < rope.beta_slow <= rope.beta_fast:
        raise BadFile(path, f"yarn betas {rope.beta_fast:g} and {rope.beta_slow:g} are not in order")
    if rope.kind == "longrope":
        for name, factors in (("short", rope.short_factor), ("long", rope.long_factor)):
            if len(factors) != rope.dim // 2 or not all(0 < factor < float("inf") for factor in factors):
                raise BadFile(path, f"{name} rope factors are not {rope.dim // 2} positive numbers")
