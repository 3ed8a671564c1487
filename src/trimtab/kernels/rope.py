"""Rotary position embedding of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(x: Tensor, positions: Tensor, frequencies: Tensor, factor: float = 1.0) -> Tensor:
    """Rotate pair (i, i + dim / 2) of every head by `position * frequencies[i]`; the rest passes through.

    x (rows, heads, head_dim) of any float type; positions (rows,) int; frequencies (dim / 2,) float32 with
    dim <= head_dim; factor scales cosine and sine. Result like x; arithmetic in float32.
    """
    half = frequencies.numel()
    angles = positions.float()[:, None, None] * frequencies.float()  # (rows, 1, dim / 2)
    cos, sin = angles.cos() * factor, angles.sin() * factor
    a, b, rest = x.float().split((half, half, x.shape[-1] - 2 * half), dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1).to(x.dtype)
