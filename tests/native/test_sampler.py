"""The native sampler returns what the numpy reference returns, on every instruction set.

Only where a draw falls within 1e-5 of a boundary between two tokens (the sampler's stated tolerance: float32
weights, summed in another order) may the neighbour come out; `acceptable` lists the tokens that allows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trimtab import _native
from trimtab.engine.sampling import (
    ADJUST,
    SAMPLING,
    SamplingParams,
    adjusted_logits,
    allowed_tokens,
    kept_candidates,
    sample_reference,
    sampling_row,
    uniform,
)

Floats = npt.NDArray[np.float32]
TOLERANCE = 1e-5
VOCAB = 49152
VARIANTS = _native.sampler_variants()


def native(
    logits: Floats,
    rows: npt.NDArray[Any],
    adjust: npt.NDArray[Any] | None = None,
    mask: npt.NDArray[np.uint32] | None = None,
    width: int = 0,
    variant: str = "",
) -> tuple[npt.NDArray[Any], ...]:
    """One answer a record of `rows`, for the same logits; adjust entries and mask serve the first row."""
    table = np.ascontiguousarray(np.broadcast_to(logits, (rows.size, logits.size)))
    start = None if adjust is None else np.array([0] + [adjust.size] * rows.size, np.int32)
    entries = None if adjust is None else adjust.view(np.uint8)
    masks = None if mask is None else np.ascontiguousarray(np.broadcast_to(mask, (rows.size, mask.size)))
    answer = _native.sample_rows(table, rows.view(np.uint8), start, entries, masks, width, variant)
    return tuple(answer)


def acceptable(logits: Floats, row: Any, adjust: npt.NDArray[Any] | None, mask: Any) -> set[int]:
    """Tokens that a number, a top_p or a min_p within the tolerance could have drawn."""
    x = adjusted_logits(logits, row, adjust, None if mask is None else allowed_tokens(mask, logits.size))
    u = uniform(int(row["seed"]), int(row["draw"]))
    found: set[int] = set()
    for shift_p in (-TOLERANCE, 0, TOLERANCE):
        for shift_m in (1 - TOLERANCE, 1, 1 + TOLERANCE):
            near = row.copy()
            near["top_p"] = 1.0 if row["top_p"] >= 1 else np.clip(row["top_p"] + shift_p, 0, 1 - 1e-7)
            near["min_p"] = min(row["min_p"] * shift_m, 1.0)
            tokens, weights = kept_candidates(x, near)
            cumulative = np.cumsum(weights) / weights.sum()
            first, last = np.searchsorted(cumulative, [u - TOLERANCE, min(u + TOLERANCE, 1.0)])
            found.update(tokens[first : last + 1].tolist())
    return found


def check(
    logits: Floats,
    row: Any,
    adjust: npt.NDArray[Any] | None = None,
    mask: npt.NDArray[np.uint32] | None = None,
    variant: str = "",
) -> int:
    """Compare one row's answer with the reference; the token comes back."""
    width = max(int(row["top_logprobs"][0]), 0) + 1
    tokens, logprobs, top, top_logprobs = native(logits, row, adjust, mask, width, variant)
    want = sample_reference(logits, row[0], adjust, mask, width)
    token = int(tokens[0])
    if token != want.token:
        assert row["temperature"][0] > 0
        assert want.token >= 0
        assert token in acceptable(logits, row[0], adjust, mask)
    else:
        np.testing.assert_allclose(logprobs[0], want.logprob, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(top[0], want.top_tokens)
    np.testing.assert_allclose(top_logprobs[0], want.top_logprobs, rtol=1e-6, atol=1e-5)
    return token


# The awkward values: both infinities, NaN, both zeros, the largest, a subnormal, and plain ones.
SPECIAL = np.array([math.inf, -math.inf, math.nan, 0.0, -0.0, 3.4e38, -3.4e38, 1e-40, 1.0, -7.5], np.float32)
KINDS = ("normal", "peaked", "flat", "coarse", "equal", "huge", "special", "sprinkled", "mostly_banned")


def make_logits(kind: str, vocab: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=vocab)
    if kind == "peaked":
        x = x * 2.2 + np.where(rng.random(vocab) < 0.01, rng.exponential(4, vocab) + 4, 0)
    elif kind == "flat":
        x = x * 1e-3 + 5
    elif kind == "coarse":  # many ties
        x = np.round(x * 2) / 2
    elif kind == "equal":
        x = np.full(vocab, rng.normal())
    elif kind == "huge":
        x = x * 1e37
    elif kind == "special":
        return rng.choice(SPECIAL[: rng.integers(1, SPECIAL.size + 1)], vocab)
    elif kind == "sprinkled":
        x = np.where(rng.random(vocab) < 0.05, rng.choice(SPECIAL[1:5], vocab), x * 3)
    elif kind == "mostly_banned":
        x = np.where(rng.random(vocab) < 0.99, -np.inf, x)
    return x.astype(np.float32)


@st.composite
def row_settings(draw: st.DrawFn, vocab: int) -> npt.NDArray[Any]:
    row = sampling_row(SamplingParams(), 0)
    row["temperature"] = draw(st.sampled_from([0, 0, 1, 1, 0.7, 0.05, 1e-6, 1e-40, 3, 100]))
    row["top_p"] = draw(st.sampled_from([1, 1, 0, 0.5, 0.9, 0.95, 0.999999, 1e-6]))
    row["min_p"] = draw(st.sampled_from([0, 0, 0.05, 0.5, 1, 1e-7]))
    row["repetition"] = draw(st.sampled_from([1, 1.1, 0.5, 100]))
    row["presence"] = draw(st.sampled_from([0, 2, -2, 0.3]))
    row["frequency"] = draw(st.sampled_from([0, 2, -2, 0.3]))
    row["top_k"] = draw(st.sampled_from([0, 0, 1, 2, 50, vocab // 2, vocab, 2**31 - 1]))
    row["top_logprobs"] = draw(st.sampled_from([-1, 0, 1, 5, 20]))
    row["score"] = draw(st.sampled_from([-1, -1, -1, 0, vocab - 1, vocab]))
    row["seed"] = draw(st.integers(0, 2**64 - 1))
    row["draw"] = draw(st.integers(0, 2**40))
    return row


@st.composite
def adjustments(draw: st.DrawFn, vocab: int) -> npt.NDArray[Any]:
    entry = st.tuples(
        st.integers(-2, vocab + 2),
        st.integers(0, 5),
        st.integers(0, 1),
        st.sampled_from([0.0, 0.0, 100.0, -100.0, 1.5, -math.inf]),
    )
    return np.array(draw(st.lists(entry, max_size=30)), dtype=ADJUST)


def make_mask(kind: str, vocab: int, seed: int) -> npt.NDArray[np.uint32] | None:
    rng = np.random.default_rng(seed)
    words = -(-vocab // 32)
    if kind == "none":
        return None
    share = {"all": 1.0, "half": 0.5, "few": 0.002, "nothing": 0.0}[kind]
    bits = rng.random(words * 32) < share  # bits past the vocabulary must not matter
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)


MASKS = st.sampled_from(["none", "none", "all", "half", "few", "nothing"])
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=250, deadline=None)
@given(st.data(), st.sampled_from(KINDS), st.integers(1, 5000), SEEDS, MASKS, st.sampled_from(VARIANTS))
def test_matches_the_reference(
    data: st.DataObject, kind: str, vocab: int, seed: int, mask_kind: str, variant: str
) -> None:
    adjust = data.draw(st.none() | adjustments(vocab))
    row = data.draw(row_settings(vocab))
    check(make_logits(kind, vocab, seed), row, adjust, make_mask(mask_kind, vocab, seed), variant)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(KINDS), SEEDS, MASKS, st.sampled_from(VARIANTS))
def test_matches_the_reference_at_full_size(
    data: st.DataObject, kind: str, seed: int, mask_kind: str, variant: str
) -> None:
    adjust = data.draw(st.none() | adjustments(VOCAB))
    row = data.draw(row_settings(VOCAB))
    check(make_logits(kind, VOCAB, seed), row, adjust, make_mask(mask_kind, VOCAB, seed), variant)


@settings(max_examples=200, deadline=None)
@given(st.data(), hnp.arrays(np.float32, st.integers(1, 40)))
def test_matches_the_reference_on_any_floats(data: st.DataObject, logits: Floats) -> None:
    check(logits, data.draw(row_settings(logits.size)))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(KINDS), st.integers(1, 5000), SEEDS)
def test_every_instruction_set_gives_the_same_bits(
    data: st.DataObject, kind: str, vocab: int, seed: int
) -> None:
    logits, row = make_logits(kind, vocab, seed), data.draw(row_settings(vocab))
    answers = [native(logits, row, width=20, variant=variant) for variant in VARIANTS]
    for other in answers[1:]:
        for got, want in zip(other, answers[0], strict=True):
            assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("vocab", [1, 15, 16, 17, 31, 32, 33, 1023, 1024, 1025, 2047, 5000])
def test_the_highest_is_found_wherever_it_lies(vocab: int) -> None:
    row = sampling_row(SamplingParams(temperature=0), 0)
    for token in {0, vocab // 2, vocab - 1}:
        logits = np.full(vocab, -3.0, np.float32)
        logits[token:] = 1.0
        assert native(logits, row)[0].tolist() == [token]


def draws_of(params: SamplingParams, count: int) -> npt.NDArray[Any]:
    rows = np.repeat(sampling_row(params, 0), count)
    rows["seed"] = np.arange(count) // 64  # streams of 64 positions each
    rows["draw"] = np.arange(count) % 64
    return rows


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=1.7),
        SamplingParams(top_k=5),
        SamplingParams(temperature=2.0, top_p=0.8),
        SamplingParams(temperature=1.5, min_p=0.1),
        SamplingParams(temperature=3.0, top_k=9, top_p=0.9, min_p=0.05),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(params: SamplingParams) -> None:
    logits = np.random.default_rng(3).normal(size=12).astype(np.float32) * 1.5
    rows = draws_of(params, 20_000)
    tokens, weights = kept_candidates(logits, rows[0])
    expected = 20_000 * weights / weights.sum()
    counts = np.bincount(native(logits, rows)[0], minlength=12)
    assert counts.sum() == counts[tokens].sum()  # nothing outside the cut
    degrees = max(tokens.size - 1, 1)
    chi_square = (np.square(counts[tokens] - expected) / expected).sum()
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees)


def test_draws_follow_the_distribution_at_full_size() -> None:
    """Deciles of probability over a peaked vocabulary, where every narrowing step is at work."""
    logits = make_logits("peaked", VOCAB, 1)
    rows = draws_of(SamplingParams(temperature=1.3), 640)
    tokens, weights = kept_candidates(logits, rows[0])
    cumulative = np.empty(VOCAB)
    cumulative[tokens] = np.cumsum(weights) / weights.sum()
    share = np.empty(VOCAB)
    share[tokens] = weights / weights.sum()
    drawn = np.concatenate([native(logits, rows[i : i + 64])[0] for i in range(0, 640, 64)])
    # Spread each draw over its token's interval of the CDF: uniform if the draws are right.
    position = cumulative[drawn] - share[drawn] * np.random.default_rng(0).random(drawn.size)
    counts = np.histogram(position, bins=10, range=(0, 1))[0]
    assert np.square(counts - 64).sum() / 64 < 27.9  # chi-square, 9 degrees, 0.1 %


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    logits = make_logits("peaked", 3000, 5)
    rows = draws_of(SamplingParams(temperature=3.0, top_p=0.95), 200)
    together = native(logits, rows)[0]
    alone = [int(native(logits, rows[i : i + 1])[0][0]) for i in range(rows.size)]
    assert together.tolist() == alone
    assert len(set(alone)) > 10


def test_scores_need_no_choice() -> None:
    logits = make_logits("peaked", VOCAB, 2)
    rows = np.repeat(np.zeros(1, SAMPLING), 50)
    rows["score"] = np.arange(50) * 983
    tokens, logprobs, _, _ = native(logits, rows)
    assert tokens.tolist() == rows["score"].tolist()
    exact = logits.astype(np.float64) - logits.max()
    exact -= math.log(np.exp(exact).sum())
    np.testing.assert_allclose(logprobs, exact[rows["score"]], rtol=1e-6, atol=1e-5)


def test_wrong_shapes_are_refused() -> None:
    logits, row = np.zeros((1, 64), np.float32), sampling_row(SamplingParams(), 0).view(np.uint8)
    sample: Any = _native.sample_rows
    with pytest.raises(ValueError, match="SAMPLING"):
        sample(logits, row[:-1])
    with pytest.raises(ValueError, match="vocabulary"):
        sample(np.zeros((1, 0), np.float32), row)
    with pytest.raises(ValueError, match="mask"):
        sample(logits, row, mask=np.zeros((1, 1), np.uint32))
    with pytest.raises(ValueError, match="ascend"):
        sample(logits, row, np.array([0, 2], np.int32), np.zeros(1, ADJUST).view(np.uint8))
    with pytest.raises(ValueError, match="no sampler variant"):
        sample(logits, row, variant="sse9")
