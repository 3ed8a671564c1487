"""Rounding to few bits, and matrix products over rounded numbers: what the native kernels must return.

Activations are symmetric int8, one scale for each row or for each group of a row. Weights are int8 with one
scale for each output, or groups of 32 small integers with a scale and a minimum,
`weight = scale * q + minimum`, which is what the blocks of GGUF files hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

GROUP = 32  # weights that share one scale and one minimum


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """q (outputs, inputs) int8; scale (outputs,) float32."""

    q: Tensor
    scale: Tensor

    @property
    def nbytes(self) -> int:
        return int(self.q.nbytes + self.scale.nbytes)

    def rows(self, index: Tensor | slice) -> Tensor:
        """Weights of some outputs, (len(index), inputs) float32."""
        return self.q[index].float() * self.scale[index, None]


@dataclass(frozen=True, slots=True)
class GroupMatrix:
    """Four bits a weight, groups of 32 along the inputs.

    Parameters
    ----------
    pairs : (outputs, inputs / 2) uint8; byte j of a group's 16 holds input j low and input j + 16 high
    scale, minimum : (outputs, inputs / 32) float32 or float16
    """

    pairs: Tensor
    scale: Tensor
    minimum: Tensor

    @property
    def nbytes(self) -> int:
        return int(self.pairs.nbytes + self.scale.nbytes + self.minimum.nbytes)

    def rows(self, index: Tensor | slice) -> Tensor:
        """Weights of some outputs, (len(index), inputs) float32."""
        q = unpack_pairs(self.pairs[index])
        return dequantize_groups(q, self.scale[index].float(), self.minimum[index].float())


def quantize_rows(x: Tensor, group: int = 0) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with the largest magnitude at 127, ties to even.

    x (rows, width); group divides width, 0 is the whole row. Result: int8 like x, and float32 scales
    (rows, width / group); x is within half a scale of `q * scale`. A group of zeros has scale 0.
    """
    groups = x.float().unflatten(-1, (-1, group or x.shape[-1]))  # (rows, groups, group)
    top = groups.abs().amax(dim=-1, keepdim=True)
    # A number divided by a tensor would be a reciprocal and a product: two roundings, and other ties.
    inverse = torch.where(top > 0, top.new_tensor(127.0) / top, 0.0)
    q = (groups * inverse).round().clamp(-127, 127).to(torch.int8)
    return q.flatten(-2), (top / 127.0).squeeze(-1)


def quantize_groups(weight: Tensor, bits: int = 4, group: int = GROUP) -> tuple[Tensor, Tensor, Tensor]:
    """Unsigned integers with a scale and a minimum a group.

    weight (outputs, inputs). Result: q uint8 like weight, below 2 ** bits; scale and minimum
    (outputs, inputs / group) float32. A weight is within half a scale of `scale * q + minimum`.
    """
    groups = weight.float().unflatten(-1, (-1, group))
    low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    scale = (high - low) / (2**bits - 1)
    steps = torch.where(scale > 0, (groups - low) / scale, 0.0)
    q = steps.round().clamp(0, 2**bits - 1).to(torch.uint8)
    return q.flatten(-2), scale.squeeze(-1), low.squeeze(-1)


def dequantize_groups(q: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    """`scale * q + minimum`. q (outputs, inputs); scale, minimum (outputs, groups). Result float32 like q."""
    groups = q.float().unflatten(-1, (scale.shape[-1], -1))
    return (groups * scale[..., None] + minimum[..., None]).flatten(-2)


def linear_int8(x: Tensor, q: Tensor, scale: Tensor) -> Tensor:
    """Row-wise int8 activations times int8 weights, exact in integers before the two scales.

    x (rows, inputs) float; q (outputs, inputs) int8; scale (outputs,). Result (rows, outputs) float32.
    """
    x_q, x_scale = quantize_rows(x)
    dots = x_q.double() @ q.double().T  # integers below 2**53: exact
    return dots.float() * (x_scale * scale)


def linear_groups(x: Tensor, q: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    """Group-wise int8 activations times grouped weights: integer dot products, folded once a group.

    x (rows, inputs) float; q (outputs, inputs) integers; scale, minimum (outputs, groups). The minimum meets
    the sum of the group's rounded activations. Result (rows, outputs) float32, summed in float64.
    """
    size = q.shape[-1] // scale.shape[-1]
    x_q, x_scale = quantize_rows(x, size)
    left = x_q.double().unflatten(-1, (-1, size))  # (rows, groups, size)
    right = q.double().unflatten(-1, (-1, size))  # (outputs, groups, size)
    dots = torch.einsum("rgi,ogi->rog", left, right)
    folded = scale.double() * dots + minimum.double() * left.sum(-1)[:, None]
    return (folded * x_scale.double()[:, None]).sum(-1).float()


def pack_pairs(q: Tensor) -> Tensor:
    """Two 4-bit integers a byte, as in `GroupMatrix`. q (outputs, inputs) uint8, result half as wide."""
    groups = q.unflatten(-1, (-1, 2, GROUP // 2))  # (outputs, groups, half, 16)
    return (groups[:, :, 0] | groups[:, :, 1] << 4).flatten(-2)


def unpack_pairs(pairs: Tensor) -> Tensor:
    """Undo `pack_pairs`. pairs (outputs, inputs / 2) uint8. Result (outputs, inputs) uint8."""
    groups = pairs.unflatten(-1, (-1, GROUP // 2))
    return torch.stack((groups & 15, groups >> 4), dim=-2).flatten(-3)


def matrix_from_blocks(raw: npt.NDArray[np.uint8], dtype: str, rows: int, columns: int) -> GroupMatrix:
    """The same numbers as a GGUF tensor of type Q4_0 or Q4_1, with nothing rounded again.

    raw : the tensor's bytes: per group a float16 scale, for Q4_1 a float16 minimum, and 16 bytes of pairs
    """
    header = {"Q4_0": 2, "Q4_1": 4}[dtype]
    blocks = np.array(raw).reshape(rows, columns // GROUP, header + GROUP // 2)
    scale = torch.from_numpy(blocks[..., :2].copy().view("<f2")[..., 0]).float()
    if dtype == "Q4_0":
        minimum = scale * -8.0  # exact: a power of two
    else:
        minimum = torch.from_numpy(blocks[..., 2:4].copy().view("<f2")[..., 0]).float()
    pairs = torch.from_numpy(np.ascontiguousarray(blocks[..., header:]).reshape(rows, columns // 2))
    return GroupMatrix(pairs, scale, minimum)
