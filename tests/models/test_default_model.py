"""The default model on the torch backend against Transformers, given the same weights another way."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from as_transformers import transformers_model
from tiny import batch_of

from trimtab.engine.torch_runner import TorchRunner
from trimtab.formats.source import open_source
from trimtab.kernels.torch_ops import WeightFormat
from trimtab.models.config import config_from
from trimtab.models.tokenizer import load_tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["float", "auto"])
def test_logits_equal_transformers(default_model: Path, weights: WeightFormat) -> None:
    with closing(open_source(default_model)) as source:
        tokens = load_tokenizer(source).encode("The capital of France is Paris, and that of Germany is")
        runner = TorchRunner.open(
            source, config_from(source), num_pages=4, context=64, device="cpu", format=weights
        )
    with torch.no_grad():
        expected = transformers_model(default_model)(torch.tensor([tokens])).logits[0].numpy()
    got = runner.logits(batch_of([(tokens, 0, [2, 1])]))
    # Logits up to 30, sums of up to 1536 terms over 30 layers: 30 * 2**-24 * sqrt(1536) * 30 layers * 2 sums.
    np.testing.assert_allclose(got, expected, atol=4e-3, rtol=0)
