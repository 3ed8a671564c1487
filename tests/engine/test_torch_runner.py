"""The torch runner: sampled tokens equal the reference's, sizes are what is taken, limits hold."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.batch import PAGE_TOKENS, Batch
from trimtab.engine.sampling import ADJUST, SAMPLING, sample_reference
from trimtab.engine.torch_runner import FloatType, TorchRunner, sample
from trimtab.errors import UsageError
from trimtab.formats.source import open_source
from trimtab.kernels.torch_ops import KvType, WeightFormat
from trimtab.models.config import config_from

sys.path.append(str(Path(__file__).parents[1] / "models"))
from test_runner import hidden_of, hidden_states
from tiny import CLASSES, batch_of, make_tiny, num_pages_for, reference_logits, run_in_chunks, some_tokens

VOCAB = 67


def batch_with(
    sampling: np.ndarray, adjust: list[tuple[int, tuple[int, int, int, float]]], mask: bool
) -> Batch:
    """A batch of which only the sampling side matters."""
    rows = len(sampling)
    batch = batch_of([([1] * rows, 0, [0])], sampling)
    ordered = sorted(adjust, key=lambda entry: entry[0] % rows)
    batch.adjust = np.array([entry for _, entry in ordered], ADJUST)
    counts = np.bincount([row % rows for row, _ in ordered], minlength=rows)
    batch.adjust_start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    if mask:
        batch.mask = np.random.default_rng(1).integers(1, 2**32, (2, -(-VOCAB // 32)), dtype=np.uint32)
        batch.sampling["mask"] = np.arange(rows) % 3
    return batch


row = st.tuples(
    st.sampled_from([0.0, 0.0, 0.7]),
    st.sampled_from([1.0, 0.8]),
    st.just(0.0),
    st.sampled_from([1.0, 1.3]),
    st.just(0.2),
    st.just(0.1),
    st.sampled_from([0, 5]),
    st.integers(-1, 4),
    st.sampled_from([-1, -1, -1, 3]),
    st.just(0),
    st.integers(0, 9),
    st.integers(0, 9),
)
entry = st.tuples(st.integers(0, 9), st.tuples(*[st.integers(0, 2)] * 3, st.floats(-2, 2, width=32)))


@given(st.lists(row, min_size=1, max_size=5), st.lists(entry, max_size=4), st.booleans(), st.integers(0, 99))
def test_every_row_is_sampled_as_the_reference_does(
    rows: list[tuple[float, ...]],
    adjust: list[tuple[int, tuple[int, int, int, float]]],
    mask: bool,
    seed: int,
) -> None:
    batch = batch_with(np.array(rows, SAMPLING), adjust, mask)
    # Few distinct values, so that the highest is often shared.
    logits = np.random.default_rng(seed).integers(-3, 4, (len(rows), VOCAB)).astype(np.float32)
    if seed % 3 == 0:
        logits[:, seed % VOCAB] = np.nan
    result = sample(torch.from_numpy(logits), batch)
    for i in range(len(rows)):
        changes = batch.adjust[batch.adjust_start[i] : batch.adjust_start[i + 1]]
        which = batch.sampling[i]["mask"]
        allowed = batch.mask[which - 1] if batch.mask is not None and which else None
        found = sample_reference(logits[i], batch.sampling[i], changes, allowed, result.top_tokens.shape[1])
        assert result.tokens[i] == found.token
        np.testing.assert_array_equal(result.logprobs[i], np.float32(found.logprob))
        np.testing.assert_array_equal(result.top_tokens[i], found.top_tokens)


def test_greedy_text_equals_transformers(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path)
    with closing(open_source(folder)) as source:
        runner = TorchRunner.open(source, config_from(source), num_pages=9, context=64, device="cpu")
    tokens, pages = some_tokens(20), [7, 2, 5]
    batch = batch_of([(tokens, 0, pages)])
    batch.sampling["top_logprobs"] = -1
    said = [int(runner.step(batch).tokens[-1])]
    while len(said) < 20:
        batch = batch_of([(said[-1:], len(tokens) + len(said) - 1, pages)])
        batch.sampling["top_logprobs"] = -1
        said.append(int(runner.step(batch).tokens[0]))
    expected = reference_logits(folder, tokens + said[:-1])[len(tokens) - 1 :].argmax(-1)
    assert said == expected.tolist()
    runner.close()


@pytest.mark.parametrize(
    ("dtype", "kv_type", "format"),
    [("f32", "f32", "float"), ("bf16", "int8", "int8"), ("f16", "bf16", "int4")],
)
def test_sizes_are_what_is_taken(
    dtype: FloatType, kv_type: KvType, format: WeightFormat, tmp_path: Path
) -> None:
    folder = make_tiny("qwen2", tmp_path)
    with closing(open_source(folder)) as source:
        config = config_from(source)
        sizes = TorchRunner.sizes(source, config, max_wanted=8, dtype=dtype, kv_type=kv_type, format=format)
        runner = TorchRunner.open(
            source,
            config,
            num_pages=3,
            max_wanted=8,
            device="cpu",
            dtype=dtype,
            kv_type=kv_type,
            format=format,
        )
    assert runner.memory["weights"] == sizes["weights"]
    assert runner.memory["pages"] == 3 * sizes["page"]
    assert runner.memory["scratch"] == sizes["scratch"]
    # The output of such a runner is finite, whatever was rounded.
    assert np.isfinite(runner.logits(batch_of([([5, 6], 0, [1])]))).all()


def test_limits_hold(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path)
    with closing(open_source(folder)) as source:
        config = config_from(source)
        runner = TorchRunner.open(
            source, config, num_pages=4, max_rows=PAGE_TOKENS, max_wanted=4, device="cpu"
        )
        with pytest.raises(ValueError, match="17 rows"):
            runner.step(batch_of([([1] * 17, 0, [0, 1])]))
        with pytest.raises(UsageError, match="no device `abacus`"):
            TorchRunner.open(source, config, num_pages=4, device="abacus")


@pytest.mark.parametrize("name", CLASSES)
def test_hidden_states_equal_transformers(name: str, tmp_path: Path) -> None:
    sequence = some_tokens(40)
    folder = make_tiny(name, tmp_path)
    with closing(open_source(folder)) as source:
        pages = num_pages_for([sequence])
        runner = TorchRunner.open(source, config_from(source), num_pages=pages, context=40, device="cpu")
    with closing(runner):
        got = run_in_chunks(hidden_of(runner), [sequence], [[25, 1, 14]])[0]
    np.testing.assert_allclose(got, hidden_states(folder, sequence), atol=2e-4, rtol=0)
