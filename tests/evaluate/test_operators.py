"""The reference model runs like any other, and what is fitted to it predicts a step of its own."""

from __future__ import annotations

import numpy as np

from trimtab.evaluate.operators import batch_of, reference, sampled
from trimtab.evaluate.reference_model import HIDDEN, ReferenceSource
from trimtab.machine.dissect.operator_rates import fit
from trimtab.machine.dissect.work import Shape
from trimtab.models.config import config_from


def test_the_reference_model_is_a_sound_checkpoint() -> None:
    source = ReferenceSource(2)
    config = config_from(source)
    assert (config.architecture, config.hidden, config.layers, config.tied) == ("llama", HIDDEN, 2, True)
    for name in source.names():
        info = source.info(name)
        assert source.raw(name).size == info.nbytes
        assert source.dequantized(name).shape == info.shape


def test_every_kind_of_its_operations_gets_a_rate() -> None:
    with reference("q8", "bf16", 1, layers=1) as runner:
        tokens = runner.step(batch_of(2, 1, 40)).tokens
        assert np.array_equal(tokens, runner.step(batch_of(2, 1, 40)).tokens)
        assert len(tokens) == 2
        samples = sampled(runner, [(1, 1, 40, 3), (1, 1, 900, 3), (8, 1, 90, 3), (1, 32, 0, 3)])
        rates = fit(samples)
        assert {key.split(",")[0] for key in rates.rates} == {
            "embed", "norm", "angles", "pack", "product q8", "rope_store bf16", "attend bf16",
            "head q8 sketched", "head q8 sampled",
        }  # fmt: skip
        seconds = rates.step_seconds(runner.operations, Shape(1, 1, [(1, 40)], sketched=True, opened=1))
        assert 0 < seconds < 10
        for sample in samples:
            assert sample.seconds > 0
