"""The gated half of a feed-forward layer: two projections, an activation, a product."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def activate(x: Tensor, activation: str) -> Tensor:
    """`silu` or `gelu_tanh` of x, element by element."""
    match activation:
        case "silu":
            return functional.silu(x)
        case "gelu_tanh":
            return functional.gelu(x, approximate="tanh")
    raise ValueError(f"no activation {activation!r}; known: silu, gelu_tanh")


def combine(gate_up: Tensor, activation: str) -> Tensor:
    """`act(gate) * up`. gate_up (rows, 2 width), gate first. Result (rows, width) like it; float32 inside."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (activate(gate, activation) * up).to(gate_up.dtype)


def reference(x: Tensor, weight: Tensor, activation: str) -> Tensor:
    """`act(x @ gate.T) * (x @ up.T)`. x (rows, inputs); weight (2 width, inputs), gate rows first."""
    return combine(functional.linear(x, weight), activation)
