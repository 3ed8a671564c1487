"""Embeddings: means of hidden states, whatever else runs, however small the steps and the pool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_runner import VOCAB, WIDTH, FakeRunner, FakeTokenizer, alone, toy_hidden
from hypothesis import given
from hypothesis import strategies as st

from trimtab import LLM
from trimtab.engine.embedding import checked_dimensions, unit
from trimtab.engine.engine import Engine, EngineSettings
from trimtab.engine.sampling import SamplingParams
from trimtab.errors import TooLong, UsageError

prompts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=70)


def mean(tokens: list[int]) -> np.ndarray:
    """The definition, in float64."""
    states = [toy_hidden(np.array(tokens[: end + 1]), 1000) for end in range(len(tokens))]
    return np.stack(states).astype(np.float64).mean(axis=0)


@given(
    st.lists(prompts, min_size=1, max_size=6),
    st.lists(st.tuples(prompts, st.integers(1, 40)), max_size=4),
    st.integers(7, 40),
    st.integers(2, 32),
)
def test_neighbours_chunks_and_preemption_change_nothing(
    texts: list[list[int]], others: list[tuple[list[int], int]], pages: int, rows: int
) -> None:
    """Rounding to float32 once is all that may differ from the definition."""
    runner = FakeRunner(num_pages=pages, max_rows=rows, max_wanted=min(rows, 8))
    with Engine(runner, FakeTokenizer(), EngineSettings(context=7 * 16)) as engine:
        greedy = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for _, n in others]
        with engine.hold():
            running = [engine.submit(p, g) for (p, _), g in zip(others, greedy, strict=True)]
            handles = [engine.submit_embedding(text) for text in texts]
        for handle, text in zip(handles, texts, strict=True):
            got = handle.result(30)
            assert got.embedding is not None
            np.testing.assert_allclose(got.embedding, mean(text), rtol=1e-6, atol=1e-4)
            assert (got.token_ids, got.prompt_tokens) == ([], len(text))
        for handle, (prompt, _), params in zip(running, others, greedy, strict=True):
            assert handle.result(30).token_ids == alone(prompt, params).tokens
        stats = engine.stats()
        assert stats["pages_held"] == 0
        assert stats["ttft_s"]["count"] == len(others)  # an embedding has no first token


def test_nothing_is_shared_with_an_embedding() -> None:
    """A shared page has no hidden states to add up."""
    text = list(range(20)) * 3
    with Engine(FakeRunner(), FakeTokenizer()) as engine:
        engine.submit(text, SamplingParams(max_tokens=1)).result(30)
        completion = engine.submit_embedding(text).result(30)
        assert completion.cached_tokens == 0
        np.testing.assert_allclose(completion.embedding, mean(text), rtol=1e-6, atol=1e-4)


def test_a_cancelled_embedding_has_no_value() -> None:
    with Engine(FakeRunner(), FakeTokenizer()) as engine:
        with engine.hold():
            handle = engine.submit_embedding([1, 2, 3])
            handle.cancel()
        assert handle.result(30).embedding is None


def test_limits() -> None:
    with Engine(FakeRunner(), FakeTokenizer(), EngineSettings(context=32)) as engine:
        assert engine.submit_embedding([1] * 32).result(30).embedding is not None
        with pytest.raises(TooLong, match="33 tokens"):
            engine.submit_embedding([1] * 33)
        with pytest.raises(UsageError, match="no tokens"):
            engine.submit_embedding([])


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.data())
def test_unit_vectors(values: list[float], data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, len(values)))
    got = unit(np.array(values, np.float32), kept)
    assert got.shape == (kept,)
    assert got.dtype == np.float32
    # Each value is rounded to 24 bits once: the sum of their squares errs by at most twice that.
    assert abs(float(np.square(got, dtype=np.float64).sum()) - bool(any(values[:kept]))) < 2.5e-7


@pytest.mark.parametrize("asked", [0, -1, WIDTH + 1])
def test_dimensions_have_limits(asked: int) -> None:
    assert checked_dimensions(None, WIDTH) == WIDTH
    assert checked_dimensions(3, WIDTH) == 3
    with pytest.raises(UsageError, match=f"1 to {WIDTH}"):
        checked_dimensions(asked, WIDTH)


TEXTS = [
    "The capital of France is Paris.",
    "Paris is the French capital city.",
    "def f(x): return x + 1",
    "No.",
]


@pytest.fixture(scope="module")
def llm(default_model: Path) -> Iterator[LLM]:
    with LLM(default_model, context=1024) as made:
        yield made


def test_the_default_model_equals_transformers(llm: LLM, default_model: Path) -> None:
    """Weights are the same; activations rounded to 8 bits turn a vector by a few degrees at most."""
    import sys

    import torch

    sys.path.append(str(Path(__file__).parents[1] / "models"))
    from as_transformers import transformers_model

    model = transformers_model(default_model).model
    got = llm.embed(TEXTS)
    assert got.shape == (len(TEXTS), llm.config.hidden)
    for text, vector in zip(TEXTS, got, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([list(llm.encode(text))])).last_hidden_state[0]
        expected = states.double().mean(dim=0).numpy()
        cosine = float(vector @ expected) / float(np.linalg.norm(expected))
        assert cosine > 0.998, (text, cosine)
    assert got[0] @ got[1] > max(got[0] @ got[2], got[0] @ got[3])


def test_shorter_vectors_are_the_front_of_long_ones(llm: LLM) -> None:
    whole, short = llm.embed(TEXTS), llm.embed(TEXTS, dimensions=64)
    front = whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose(short, front, atol=1e-6)
    assert llm.embed([]).shape == (0, llm.config.hidden)
    assert np.array_equal(llm.embed(llm.encode(TEXTS[0]))[0], llm.embed(TEXTS[0])[0])
    with pytest.raises(UsageError, match="dimensions"):
        llm.embed(TEXTS, dimensions=10_000)
