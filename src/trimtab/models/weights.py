"""Where each weight of a decoder lies in a checkpoint, and how it reaches a backend.

Knows the tensor names of GGUF files and of Hugging Face folders, which of them are stored fused, and that
GGUF files of the llama architecture permute the rows of the query and key projections. It reads shapes only:
what a matrix becomes (packed blocks, torch tensors) is the maker's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trimtab.errors import BadFile, Unsupported
from trimtab.kernels.ops import Maker, Matrix, Rows, Vector
from trimtab.models.config import ModelConfig

if TYPE_CHECKING:
    from trimtab.formats.source import TensorSource


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. `qkv` stacks query, key and value rows; `gate_up` is a gated matrix."""

    attn_norm: Vector
    qkv: Matrix
    out: Matrix
    mlp_norm: Vector
    gate_up: Matrix
    down: Matrix
    qkv_bias: Vector | None = None
    out_bias: Vector | None = None
    q_norm: Vector | None = None
    k_norm: Vector | None = None
    post_attn_norm: Vector | None = None
    post_mlp_norm: Vector | None = None


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All weights of one model; `head` is the same object as `embed` when the checkpoint ties them."""

    embed: Matrix
    layers: tuple[LayerWeights, ...]
    final_norm: Vector
    head: Matrix


GGUF_NAMES = {
    "embed": "token_embd.weight", "final_norm": "output_norm.weight", "head": "output.weight",
    "attn_norm": "attn_norm.weight", "mlp_norm": "ffn_norm.weight",
    "post_attn_norm": "post_attention_norm.weight", "post_mlp_norm": "post_ffw_norm.weight",
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "qkv": "attn_qkv", "out": "attn_output",
    "q_norm": "attn_q_norm.weight", "k_norm": "attn_k_norm.weight",
    "gate": "ffn_gate", "up": "ffn_up", "gate_up": "ffn_up", "down": "ffn_down",
}  # fmt: skip

HF_NAMES = {
    "embed": "embed_tokens.weight", "final_norm": "norm.weight", "head": "lm_head.weight",
    "attn_norm": "input_layernorm.weight", "mlp_norm": "post_attention_layernorm.weight",
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "qkv": "self_attn.qkv_proj", "out": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm.weight", "k_norm": "self_attn.k_norm.weight",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "gate_up": "mlp.gate_up_proj", "down": "mlp.down_proj",
}  # fmt: skip

# In Gemma's folders the norm after attention has the name that others give to the norm before the MLP.
HF_POST_NORMS = HF_NAMES | {
    "post_attn_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "post_mlp_norm": "post_feedforward_layernorm.weight",
}

POST_NORMED = frozenset({"gemma2", "gemma3"})  # norms behind attention and MLP too
HEAD_NORMED = frozenset({"qwen3", "gemma3"})  # every query and key head is normed

# Where the text model hangs in a folder: plain, inside a multimodal model (two generations), or alone;
# and what stands before its head's name there.
HF_PREFIXES = {"model.": "", "language_model.model.": "language_model.", "model.language_model.": "", "": ""}

# Tables that follow from the configuration; reading them again would be a second source of truth.
DERIVED = ("rotary_emb.inv_freq", "attn_rot_embd.weight")


def load_weights(source: TensorSource, config: ModelConfig, maker: Maker) -> ModelWeights:
    """Find every weight of the model in the checkpoint and hand it to the maker.

    Raises
    ------
    BadFile : a tensor is missing or has another shape than the configuration says; names the tensor
    Unsupported : a layer holds a tensor that this architecture does not use, so its answers would be wrong
    """
    return _Loader(source, config, maker).model()


_MODULES = {
    "attn_norm": "attn.norm", "qkv": "attn.qkv", "out": "attn.out", "post_attn_norm": "attn.post_norm",
    "mlp_norm": "mlp.norm", "gate_up": "mlp.gate_up", "down": "mlp.down", "post_mlp_norm": "mlp.post_norm",
}  # fmt: skip


def module_names(weights: ModelWeights) -> dict[int, str]:
    """Where each matrix and norm belongs in the model, by its `id`: `layers.3.mlp.down`."""
    return {
        id(getattr(layer, field)): f"layers.{index}.{module}"
        for index, layer in enumerate(weights.layers)
        for field, module in _MODULES.items()
        if getattr(layer, field) is not None
    }


def unpermute(heads: int, head_dim: int, rotated: int) -> npt.NDArray[np.int64]:
    """Row order that turns GGUF's interleaved rotary pairs (2i, 2i + 1) into halves (i, i + rotated / 2)."""
    head = np.arange(head_dim)
    head[:rotated] = head[:rotated].reshape(rotated // 2, 2).T.reshape(-1)
    return (np.arange(heads)[:, None] * head_dim + head).reshape(-1).astype(np.int64)


class _Loader:
    def __init__(self, source: TensorSource, config: ModelConfig, maker: Maker) -> None:
        self.source, self.config, self.maker = source, config, maker
        self.present = frozenset(source.names())
        self.used: set[str] = set()
        self.names: Mapping[str, str]
        if source.kind == "gguf":
            self.names, self.base, self.head_base, self.layer_base = GGUF_NAMES, "", "", "blk."
        else:
            self.names = HF_POST_NORMS if config.architecture in POST_NORMED else HF_NAMES
            self.base = self._prefix()
            self.head_base = HF_PREFIXES[self.base]
            self.layer_base = f"{self.base}layers."

    def model(self) -> ModelWeights:
        config = self.config
        table = Rows(self._checked(self.base + self.names["embed"], config.vocab_size, config.hidden))
        embed = self.maker.matrix(table)
        layers = tuple(self._layer(f"{self.layer_base}{index}.", index) for index in range(config.layers))
        head = embed
        if not config.tied:
            head_name = self.head_base + self.names["head"]
            head = self.maker.matrix(Rows(self._checked(head_name, config.vocab_size, config.hidden)))
        final_norm = self._norm(self.base + self.names["final_norm"], config.hidden)
        self._refuse_unused()
        return ModelWeights(embed, layers, final_norm, head)

    def _layer(self, at: str, index: int) -> LayerWeights:
        config = self.config
        wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
        qkv, qkv_bias = self._qkv(at, index, wide, narrow)
        out = at + self.names["out"]
        down = at + self.names["down"]
        post, per_head = config.architecture in POST_NORMED, config.architecture in HEAD_NORMED
        return LayerWeights(
            attn_norm=self._norm(at + self.names["attn_norm"], config.hidden),
            qkv=qkv,
            qkv_bias=qkv_bias,
            q_norm=self._norm(at + self.names["q_norm"], config.head_dim) if per_head else None,
            k_norm=self._norm(at + self.names["k_norm"], config.head_dim) if per_head else None,
            out=self.maker.matrix(Rows(self._checked(f"{out}.weight", config.hidden, wide))),
            out_bias=self._bias(out, config.hidden),
            post_attn_norm=self._norm(at + self.names["post_attn_norm"], config.hidden) if post else None,
            mlp_norm=self._norm(at + self.names["mlp_norm"], config.hidden),
            gate_up=self._gate_up(at),
            down=self.maker.matrix(Rows(self._checked(f"{down}.weight", config.hidden, config.mlp))),
            post_mlp_norm=self._norm(at + self.names["post_mlp_norm"], config.hidden) if post else None,
        )

    def _qkv(self, at: str, index: int, wide: int, narrow: int) -> tuple[Matrix, Vector | None]:
        fused = at + self.names["qkv"]
        if f"{fused}.weight" in self.present:
            weight = Rows(self._checked(f"{fused}.weight", wide + 2 * narrow, self.config.hidden))
            return self.maker.matrix(weight), self._bias(fused, wide + 2 * narrow)
        weights, biases = [], []
        for role, rows in (("q", wide), ("k", narrow), ("v", narrow)):
            name, order = at + self.names[role], None
            if role != "v" and self.source.kind == "gguf" and self.config.architecture == "llama":
                rope = self.config.ropes[self.config.rope_of_layer[index]]
                order = unpermute(rows // self.config.head_dim, self.config.head_dim, rope.dim)
            weights.append(Rows(self._checked(f"{name}.weight", rows, self.config.hidden), order=order))
            if f"{name}.bias" in self.present:
                biases.append(Rows(self._checked(f"{name}.bias", rows), order=order))
        if biases and len(biases) != 3:
            raise BadFile(self.source.path, f"layer {index} has a bias on some of query, key and value only")
        return self.maker.matrix(*weights), self.maker.vector(*biases) if biases else None

    def _gate_up(self, at: str) -> Matrix:
        config = self.config
        gate, up, fused = (f"{at}{self.names[role]}.weight" for role in ("gate", "up", "gate_up"))
        if gate not in self.present and fused in self.present:  # Phi-3: gate rows first, then up
            self._checked(fused, 2 * config.mlp, config.hidden)
            parts = Rows(fused, 0, config.mlp), Rows(fused, config.mlp, 2 * config.mlp)
        else:
            parts = (
                Rows(self._checked(gate, config.mlp, config.hidden)),
                Rows(self._checked(up, config.mlp, config.hidden)),
            )
        return self.maker.matrix(*parts, gated=True)

    def _norm(self, name: str, size: int) -> Vector:
        return self.maker.vector(Rows(self._checked(name, size)), offset=self.config.norm_offset)

    def _bias(self, stem: str, size: int) -> Vector | None:
        if f"{stem}.bias" not in self.present:
            return None
        return self.maker.vector(Rows(self._checked(f"{stem}.bias", size)))

    def _checked(self, name: str, *shape: int) -> str:
        if name not in self.present:
            raise BadFile(self.source.path, f"tensor `{name}` is missing")
        got = tuple(self.source.info(name).shape)
        if got != shape:
            raise BadFile(
                self.source.path, f"tensor `{name}` has shape {got}, the model's configuration needs {shape}"
            )
        self.used.add(name)
        return name

    def _prefix(self) -> str:
        for prefix in HF_PREFIXES:
            if prefix + self.names["embed"] in self.present:
                return prefix
        raise BadFile(self.source.path, f"tensor `model.{self.names['embed']}` is missing")

    def _refuse_unused(self) -> None:
        for name in self.present - self.used:
            if name.startswith(self.layer_base) and not name.endswith(DERIVED):
                raise Unsupported(
                    f"{self.source.path}: tensor `{name}` has no place in the {self.config.architecture} "
                    "architecture as trimtab runs it",
                    hint="leaving it out would change the model's answers",
                )
