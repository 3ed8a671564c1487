"""A trained model computes what the reference computes, and techniques leave the gradients as they are."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from small_model import tiny_config

from trimtab.engine.batch import PAGE_TOKENS
from trimtab.kernels.torch_ops import TorchCache, TorchOps
from trimtab.models import forward
from trimtab.train.matrices import Dense, FourBit, LowRank
from trimtab.train.model import Shape, TrainedModel

CONFIG = tiny_config()


def tokens(batch: int = 2, length: int = 12) -> torch.Tensor:
    return torch.randint(0, CONFIG.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def gradients(shape: Shape | None = None, **how: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = TrainedModel.random(CONFIG, shape, **how)
    logits = model(tokens())
    logits.square().mean().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


class OneSequence:
    """A batch of one whole prompt, every row wanted."""

    hidden = None

    def __init__(self, row: torch.Tensor) -> None:
        count = len(row)
        self.tokens, self.positions = row.numpy().astype(np.int32), np.arange(count, dtype=np.int32)
        self.span_start = np.array([0, count], np.int32)
        pages = -(-count // PAGE_TOKENS)
        self.page_start, self.pages = np.array([0, pages], np.int32), np.arange(pages, dtype=np.int32)
        self.wanted = np.arange(count, dtype=np.int32)


@pytest.mark.parametrize("attention", ["eager", "fused"])
def test_logits_are_those_of_the_paged_reference(attention: Any) -> None:
    model = TrainedModel.random(CONFIG, attention=attention)

    def bare(part: Any) -> Any:
        return part.weight if isinstance(part, Dense) else part

    names = [field.name for field in dataclasses.fields(model.weights.layers[0])]
    layers = tuple(
        dataclasses.replace(layer, **{name: bare(getattr(layer, name)) for name in names})
        for layer in model.weights.layers
    )
    table = bare(model.weights.embed)
    weights = dataclasses.replace(model.weights, layers=layers, embed=table, head=table)
    with torch.no_grad():
        got = model(tokens()).view(2, 12, -1)
        for row, mine in zip(tokens(), got, strict=True):
            cache = TorchCache(
                layers=CONFIG.layers, num_pages=4, page_tokens=PAGE_TOKENS, kv_heads=2, head_dim=16
            )
            theirs = forward(TorchOps(OneSequence(row), cache, context=64), CONFIG, weights)
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "how", [{"attention": "eager"}, {"recompute": True}, {"attention": "eager", "recompute": True}]
)
@pytest.mark.parametrize("shape", [Shape(), Shape(rank=4), Shape(rank=4, four_bit=True)])
def test_techniques_leave_logits_and_gradients(shape: Shape, how: dict[str, Any]) -> None:
    logits, wanted = gradients(shape)
    again, got = gradients(shape, **how)
    torch.testing.assert_close(again, logits, rtol=1e-5, atol=1e-6)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-7)


def test_an_update_starts_at_nothing_and_only_it_learns() -> None:
    full, _ = gradients()
    low, grads = gradients(Shape(rank=4))
    torch.testing.assert_close(low, full, rtol=1e-5, atol=1e-6)
    assert {name.rpartition("_")[2].rpartition(".")[2] for name in grads} == {"down", "up"}


def test_a_four_bit_base_is_its_rounded_matrix() -> None:
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(3))
    base = FourBit.of(weight)
    rounded = Dense(base.blocks.rows(slice(None)), learns=False)
    x = torch.randn(5, 64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    base(x).square().sum().backward()
    rounded(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert base.shape == weight.shape
    assert base.nbytes < weight.nbytes / 3


def test_a_low_rank_update_is_its_product() -> None:
    base = Dense(torch.randn(6, 32), learns=False)
    matrix = LowRank(base, 4, 8.0, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(matrix.up)
    x = torch.randn(3, 32)
    merged = base.weight + 2.0 * matrix.up @ matrix.down
    torch.testing.assert_close(matrix(x), x @ merged.T, rtol=1e-4, atol=1e-5)


def test_bf16_products_are_near() -> None:
    wide, _ = gradients()
    narrow, _ = gradients(dtype=torch.bfloat16)
    assert narrow.dtype == torch.float32
    assert (narrow - wide).abs().max() < 0.05 * wide.abs().max()


def test_names_tell_layer_and_part() -> None:
    model = TrainedModel.random(CONFIG)
    assert model.names[id(model.weights.layers[1].down)] == "layers.1.down"
    assert model.names[id(model.weights.head)] == "embed"
    counted = sum(p.numel() for p in model.parameters())
    a_layer = 64 * (64 + 64) + 64 * 64 + 3 * 64 * 96 + 2 * 64
    assert counted == 96 * 64 + 2 * a_layer + 64
