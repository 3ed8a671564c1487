"""Steps lower the loss, the offloaded optimizer is AdamW, and a traced step is the step that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_model import tiny_config

from trimtab.errors import UsageError
from trimtab.train.dissect import memory_of_step
from trimtab.train.optimizer import FileAdamW
from trimtab.train.trace import trace_step
from trimtab.train.trainer import Techniques, Trainer

CONFIG = tiny_config()
SETS = ["", "F", "R", "F,R", "L", "F,L", "QL,F,R", "bf16,F", "offload,F"]


def trainer(codes: str, folder: Path) -> Trainer:
    return Trainer(CONFIG, None, Techniques.of(codes), folder=folder, lr=3e-3)


def tokens(batch: int = 2, length: int = 32) -> torch.Tensor:
    return torch.randint(0, CONFIG.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("codes", SETS)
def test_every_set_of_techniques_learns(codes: str, tmp_path: Path) -> None:
    run = trainer(codes, tmp_path)
    losses = [run.step(tokens()) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.05


def test_techniques_that_change_no_arithmetic_change_no_loss(tmp_path: Path) -> None:
    wanted = [trainer("", tmp_path).step(tokens()) for _ in range(1)]
    for codes in ("F", "R", "offload", "F,R,offload"):
        run = trainer(codes, tmp_path)
        assert [run.step(tokens())] == pytest.approx(wanted, rel=1e-5)


def test_offloaded_moments_are_those_of_adamw(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(size, generator=generator) for size in ((33, 7), (5000,), (1,))]
    mine = [torch.nn.Parameter(x.clone()) for x in start]
    theirs = [torch.nn.Parameter(x.clone()) for x in start]
    ours, reference = FileAdamW(mine, tmp_path / "m"), torch.optim.AdamW(theirs, lr=1e-3, fused=True)
    for _ in range(5):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        mine[2].grad = theirs[2].grad = None  # a parameter without a gradient stays
        ours.step()
        reference.step()
        ours.zero_grad()
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b)
    assert (tmp_path / "m").stat().st_size == ours.nbytes


@pytest.mark.parametrize("codes", [codes for codes in SETS if codes != "bf16,F"])
def test_a_traced_step_holds_what_a_real_one_allocates(codes: str, tmp_path: Path) -> None:
    run = trainer(codes, tmp_path)
    for _ in range(2):
        run.step(tokens())
    real, traced = memory_of_step(run, tokens()), trace_step(CONFIG, run.techniques, 2, 32)
    # Scalars and temporaries inside an operator are the allocator's alone.
    assert traced.forward_bytes == pytest.approx(real.activations, rel=0.03, abs=16_384)
    assert traced.peak_bytes == pytest.approx(real.peak, rel=0.06, abs=16_384)
    assert traced.weight_bytes == run.held()["weights"]
    assert traced.gradient_bytes == real.gradients


def test_traced_products_are_six_a_weight_and_token() -> None:
    trace = trace_step(CONFIG, Techniques.of("F"), 2, 32)
    products = sum(each.operations for each in trace.operators if each.name == "mm")
    a_layer = 64 * (64 + 64) + 64 * 64 + 3 * 64 * 96
    assert products == 6 * 64 * (2 * a_layer + 96 * 64)
    again = trace_step(CONFIG, Techniques.of("F,R"), 2, 32)
    more = sum(each.operations for each in again.operators if each.name == "mm") - products
    # The layers' forward pass once more, less their last product, whose result nothing needs again.
    assert more == 2 * 64 * 2 * (a_layer - 64 * 96)


@pytest.mark.parametrize(
    ("codes", "told"), [("", "naive"), ("R, F", "F+R"), ("QL", "QL"), ("bf16,L", "L+bf16")]
)
def test_codes(codes: str, told: str) -> None:
    assert str(Techniques.of(codes)) == told
    assert Techniques.of([] if told == "naive" else told.split("+")) == Techniques.of(codes)


@pytest.mark.parametrize("codes", ["X", "L,QL", "f"])
def test_unknown_codes_are_refused(codes: str) -> None:
    with pytest.raises(UsageError):
        Techniques.of(codes)
