"""A model whose weights learn: made of a checkpoint or of random numbers, run whole or block by block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trimtab.kernels.torch_ops import TorchMaker
from trimtab.models import forward
from trimtab.models.config import ModelConfig
from trimtab.models.weights import LayerWeights, ModelWeights, load_weights
from trimtab.train.matrices import Dense, FourBit, LowRank
from trimtab.train.ops import Attention, BlockOps, TrainOps

if TYPE_CHECKING:
    from trimtab.formats.source import TensorSource
    from trimtab.kernels.ops import Rows

ADAPTED = ("qkv", "out", "gate_up", "down")  # where low-rank updates go


@dataclass(frozen=True, slots=True)
class Shape:
    """How weights are held.

    Parameters
    ----------
    rank : of low-rank updates; 0 trains everything
    alpha : their weight
    four_bit : the frozen base is held in four bits
    frozen : type of a frozen base that is not
    seed : of the updates' first values
    """

    rank: int = 0
    alpha: float = 16.0
    four_bit: bool = False
    frozen: torch.dtype = torch.float32
    seed: int = 0


class TrainedModel(nn.Module):
    """A decoder with gradients.

    Parameters
    ----------
    recompute : keep only the input of each layer and compute the rest again for the gradient
        (arXiv 1604.06174)
    """

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, *, dtype: torch.dtype = torch.float32,
        attention: Attention = "fused", recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.weights, self.dtype = config, weights, dtype
        self.attention: Attention = attention
        self.recompute = recompute
        self.names = names_of(weights)
        kept = dict(_parts(weights))
        self.parts = nn.ModuleDict({_key(n): p for n, p in kept.items() if isinstance(p, nn.Module)})
        for name, part in kept.items():
            if isinstance(part, nn.Parameter):
                self.register_parameter(_key(name), part)

    @classmethod
    def open(
        cls, source: TensorSource, config: ModelConfig, shape: Shape | None = None, **how: Any
    ) -> TrainedModel:
        """Load a checkpoint.

        Raises
        ------
        BadFile, Unsupported : see `load_weights`
        """
        return cls(config, load_weights(source, config, TrainMaker(source, shape or Shape())), **how)

    @classmethod
    def random(cls, config: ModelConfig, shape: Shape | None = None, **how: Any) -> TrainedModel:
        """A model of this shape before its first step; a tied head, no biases."""
        return cls(config, random_weights(config, shape or Shape()), **how)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (batch, length) int64 -> logits (batch * length, vocab) float32."""
        ops = TrainOps(tokens, self.names, dtype=self.dtype, attention=self.attention)
        if not self.recompute:
            logits: Tensor = forward(ops, self.config, self.weights)
            return logits
        x = ops.embed(self.weights.embed, scale=self.config.embed_scale)
        for index in range(self.config.layers):
            x = checkpoint(self._block, ops, x, index, use_reentrant=False)
        config = self.config
        return ops.head(
            x, self.weights.final_norm, config.norm_eps, self.weights.head, softcap=config.final_softcap
        )

    def _block(self, ops: TrainOps, x: Tensor, index: int) -> Tensor:
        config = dataclasses.replace(
            self.config, layers=1, windows=self.config.windows[index : index + 1],
            rope_of_layer=self.config.rope_of_layer[index : index + 1], embed_scale=1.0,
        )  # fmt: skip
        weights = dataclasses.replace(self.weights, layers=self.weights.layers[index : index + 1])
        result: Tensor = forward(BlockOps(ops, x, index), config, weights)
        return result

    def learning(self) -> list[nn.Parameter]:
        """The parameters that a step changes."""
        return [p for p in self.parameters() if p.requires_grad]

    def base_bytes(self) -> int:
        """Of what does not learn."""
        learning = sum(p.nbytes for p in self.learning())
        return self.weight_bytes() - int(learning)

    def weight_bytes(self) -> int:
        """Of everything held: parameters, and four-bit bases, which are none."""
        four_bit: int = sum(m.nbytes for m in self.modules() if isinstance(m, FourBit))
        return four_bit + int(sum(p.nbytes for p in self.parameters()))


class TrainMaker:
    """`Maker` of matrices with gradients."""

    def __init__(self, source: TensorSource, shape: Shape) -> None:
        self._floats, self._shape = TorchMaker(source), shape
        self._generator = torch.Generator().manual_seed(shape.seed)
        self._made = 0

    def matrix(self, *parts: Rows, gated: bool = False) -> nn.Module:
        made = self._floats.matrix(*parts, gated=gated)
        assert isinstance(made, Tensor)
        # The vocabulary stays as it is: it is shared with the embedding, which looks rows up.
        adapted = "embd" not in parts[0].name and "embed" not in parts[0].name and "head" not in parts[0].name
        return _matrix(made, self._shape, self._generator, adapted=adapted)

    def vector(self, *parts: Rows, offset: float = 0.0) -> nn.Parameter:
        return nn.Parameter(self._floats.vector(*parts, offset=offset), requires_grad=self._shape.rank == 0)


def random_weights(config: ModelConfig, shape: Shape) -> ModelWeights:
    """First weights of a model to be trained from nothing: normal, narrower by depth where layers add up."""
    generator, updates = (torch.Generator().manual_seed(shape.seed + i) for i in range(2))
    spread = 0.02

    def matrix(rows: int, inputs: int, narrow: float = 1.0) -> nn.Module:
        values = torch.randn(rows, inputs, generator=generator) * spread * narrow
        return _matrix(values, shape, updates, adapted=True)

    def vector() -> nn.Parameter:
        return nn.Parameter(torch.ones(config.hidden), requires_grad=shape.rank == 0)

    narrow = (2 * config.layers) ** -0.5
    layers = tuple(
        LayerWeights(
            attn_norm=vector(),
            qkv=matrix(config.q_width + 2 * config.kv_width, config.hidden),
            out=matrix(config.hidden, config.q_width, narrow),
            mlp_norm=vector(),
            gate_up=matrix(2 * config.mlp, config.hidden),
            down=matrix(config.hidden, config.mlp, narrow),
        )
        for _ in range(config.layers)
    )
    table = torch.randn(config.vocab_size, config.hidden, generator=generator) * spread
    embed = _matrix(table, shape, updates, adapted=False)
    return ModelWeights(embed, layers, vector(), embed)


def names_of(weights: ModelWeights) -> Mapping[int, str]:
    """Module name of each weight by identity, such as `layers.3.down`; a tied head is called `embed`."""
    found: dict[int, str] = {}
    for name, part in _parts(weights):
        found.setdefault(id(part), name)
    return found


def _parts(weights: ModelWeights) -> Iterator[tuple[str, Any]]:
    yield "embed", weights.embed
    for index, layer in enumerate(weights.layers):
        for field in dataclasses.fields(layer):
            if (part := getattr(layer, field.name)) is not None:
                yield f"layers.{index}.{field.name}", part
    yield "final_norm", weights.final_norm
    if weights.head is not weights.embed:
        yield "head", weights.head


def _matrix(values: Tensor, shape: Shape, generator: torch.Generator, *, adapted: bool) -> nn.Module:
    if shape.rank == 0:
        return Dense(values)
    base = FourBit.of(values) if shape.four_bit else Dense(values.to(shape.frozen), learns=False)
    return LowRank(base, shape.rank, shape.alpha, generator) if adapted else base


def _key(name: str) -> str:
    return name.replace(".", "_")
