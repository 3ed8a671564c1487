"""Causal attention of one span over its sequence's keys and values."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """Softmax attention; a row at position p sees keys p - window + 1 .. p, or all up to p without a window.

    q (rows, heads, head_dim); keys, values (context, kv_heads, head_dim), entry j at position j; query head h
    reads key-value head h // (heads / kv_heads); positions (rows,). Result like q; arithmetic in float32.
    """
    shared = q.shape[1] // keys.shape[1]
    k = keys.float().repeat_interleave(shared, dim=1)  # (context, heads, head_dim)
    v = values.float().repeat_interleave(shared, dim=1)
    scores = torch.einsum("rhd,chd->hrc", q.float(), k) * scale  # (heads, rows, context)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    at = torch.arange(keys.shape[0], device=q.device)
    unseen = at > positions[:, None]  # (rows, context)
    if window:
        unseen |= at <= positions[:, None] - window
    weights = scores.masked_fill(unseen, float("-inf")).softmax(dim=-1)
    return torch.einsum("hrc,chd->rhd", weights, v).to(q.dtype)
