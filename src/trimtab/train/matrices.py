"""The weight matrices of a training step: plain, frozen with a low-rank update, frozen in four bits.

Each is a module that multiplies; which parameters learn is seen by `requires_grad`. The names of methods are
the field's: full fine-tuning, LoRA (arXiv 2106.09685), QLoRA (arXiv 2305.14314, here with the 4-bit groups of
GGUF files instead of NF4).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimtab.kernels import quantize
from trimtab.kernels.quantize import GroupMatrix


class Dense(nn.Module):
    """A matrix of floats. weight (outputs, inputs), stored as it is and multiplied in the type of x."""

    def __init__(self, weight: Tensor, *, learns: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=learns)

    @property
    def shape(self) -> torch.Size:
        return self.weight.shape

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype))

    def rows(self, index: Tensor) -> Tensor:
        """Weights of some outputs, (len(index), inputs), with their gradient."""
        if not (self.weight.requires_grad and torch.is_grad_enabled()):
            return functional.embedding(index, self.weight)
        # The anchor stands in the graph for the weights, so that their gradient does not wait for this one.
        result: Tensor = _Looked.apply(torch.zeros((), requires_grad=True), [self.weight], index)
        return result


class _Looked(torch.autograd.Function):
    """Rows of a matrix; their gradient goes straight into `weight.grad`.

    A table that is also the head has two gradients, one of them zero but for a few rows. Autograd would make
    both and their sum, three matrices as large as the vocabulary; this adds the few rows to the other one.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, table: list[nn.Parameter], index: Tensor) -> Tensor:
        (ctx.weight,), ctx.index = table, index  # in a list, autograd does not see it
        return functional.embedding(index, ctx.weight.detach())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        (grad,) = grads
        weight = ctx.weight
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ctx.index, grad.to(weight.dtype))
        return None, None, None


class FourBit(nn.Module):
    """A frozen matrix in groups of 32 four-bit numbers, widened for each product, again for each gradient."""

    def __init__(self, blocks: GroupMatrix) -> None:
        super().__init__()
        for name in ("pairs", "scale", "minimum"):
            self.register_buffer(name, getattr(blocks, name))

    @property
    def blocks(self) -> GroupMatrix:
        return GroupMatrix(self.pairs, self.scale, self.minimum)

    @classmethod
    def of(cls, weight: Tensor) -> FourBit:
        q, scale, minimum = quantize.quantize_groups(weight)
        return cls(GroupMatrix(quantize.pack_pairs(q), scale.half(), minimum.half()))

    @property
    def shape(self) -> torch.Size:
        pairs = self.blocks.pairs
        return torch.Size((pairs.shape[0], pairs[0].numel() * 2))

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Widened.apply(x, self.blocks)
        return result

    def rows(self, index: Tensor) -> Tensor:
        """Weights of some outputs, (len(index), inputs) float32."""
        return self.blocks.rows(index)


class _Widened(torch.autograd.Function):
    """x @ W.T without keeping W's floats: the gradient widens them once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: GroupMatrix) -> Tensor:
        ctx.blocks = blocks
        return functional.linear(x, blocks.rows(slice(None)).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.blocks.rows(slice(None)).to(grad.dtype), None


class LowRank(nn.Module):
    """`base(x) + alpha / rank * x A^T B^T` with a frozen base; A is random, B starts at zero.

    Parameters
    ----------
    base : any frozen matrix of this module
    rank : columns of the update
    alpha : its weight; the update is scaled by alpha / rank
    """

    def __init__(self, base: Dense | FourBit, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = base.shape
        self.base, self.scale = base, alpha / rank
        self.down = nn.Parameter(torch.randn(rank, inputs, generator=generator) / rank)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    @property
    def shape(self) -> torch.Size:
        return self.base.shape

    def forward(self, x: Tensor) -> Tensor:
        update = functional.linear(functional.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))
        result: Tensor = self.base(x) + self.scale * update
        return result
