"""Paged attention and the rotary embedding against float64, and against themselves in other batches.

Tolerances count float32 roundings (see `attention_case.exact`). Keys and values that pages round are rounded
the same way first, so that what is left is arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attention_case import PAGE, Attention, AttentionProgram, FixedRope, exact, no_rope, scattered, table_of
from hypothesis import given, settings
from hypothesis import strategies as st
from packed import KERNEL_SETS, matrix_of

from trimtab import _native

KV_TYPES = ["f32", "bf16", "int8"]
# heads, KV heads, head size: queries that share a KV head fill a register block, overflow it, or leave a rest
SHAPES = [(3, 1, 16), (4, 4, 32), (6, 2, 48), (9, 3, 64), (7, 1, 80), (14, 1, 32), (2, 2, 128), (2, 1, 256)]
SEEN = [(0, 0.0), (1, 0.0), (7, 2.0), (16, 0.0), (64, 0.0), (100, 5.0), (500, 0.0)]  # window, softcap
LENGTH = 150


def tokens_of(case: Attention, count: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, case.width, count)]


def pages_for(count: int, seed: int = 0) -> list[int]:
    return scattered(-(-count // PAGE), seed)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
def test_every_shape(heads: int, kv_heads: int, head_dim: int, kernels: str, kv_type: str) -> None:
    case = Attention(heads, kv_heads, head_dim, no_rope(head_dim), kv_type=kv_type)
    table = table_of(case)
    tokens = tokens_of(case, 70)
    got = AttentionProgram(case, table, kernels).run([(tokens, 0, pages_for(70))])
    expected, bound = exact(case, table, tokens)
    assert np.ptp(expected) > 1
    assert (np.abs(got - expected) <= bound).all()


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize(("window", "softcap"), SEEN)
def test_windows_and_caps_over_many_pages(window: int, softcap: float, kernels: str, kv_type: str) -> None:
    case = Attention(6, 2, 32, no_rope(32), window, softcap, kv_type)
    table = table_of(case)
    tokens = tokens_of(case, LENGTH)
    got = AttentionProgram(case, table, kernels).run([(tokens, 0, pages_for(LENGTH))])
    expected, bound = exact(case, table, tokens)
    assert (np.abs(got - expected) <= bound).all()


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("head_dim", "dim"), [(16, 16), (32, 24), (48, 2), (64, 64), (96, 72)])
def test_rotation_of_all_or_some_dimensions(head_dim: int, dim: int, normed: bool, kernels: str) -> None:
    """Angles up to 150 x 1: sine and cosine of the float32 angle itself, so no error grows with it."""
    angles = tuple(float(a) for a in 500.0 ** -(np.arange(dim // 2) / (dim // 2)))
    case = Attention(4, 2, head_dim, FixedRope(dim, angles, factor=1.25), normed=normed)
    table = table_of(case)
    tokens = tokens_of(case, LENGTH)
    got = AttentionProgram(case, table, kernels).run([(tokens, 0, pages_for(LENGTH))])
    expected, bound = exact(case, table, tokens)
    assert (np.abs(got - expected) <= bound).all()


@settings(max_examples=40)
@given(st.data())
def test_a_row_depends_on_its_own_past_only(data: st.DataObject) -> None:
    """Bit for bit: any chunks, neighbours, order of spans, pages and threads."""
    case = Attention(
        6, 2, 32, no_rope(32), data.draw(st.sampled_from([0, 5, 40])), data.draw(st.sampled_from([0.0, 3.0])),
        data.draw(st.sampled_from(KV_TYPES)),
    )  # fmt: skip
    kernels = data.draw(st.sampled_from(KERNEL_SETS))
    table = table_of(case)
    lengths = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=3))
    sequences = [tokens_of(case, length, seed) for seed, length in enumerate(lengths)]
    alone = [
        AttentionProgram(case, table, kernels).run([(sequence, 0, pages_for(len(sequence)))])
        for sequence in sequences
    ]
    program = AttentionProgram(case, table, kernels, threads=data.draw(st.integers(1, 3)))
    free = scattered(64, data.draw(st.integers(0, 9)))
    pages = [[free.pop() for _ in range(-(-length // PAGE))] for length in lengths]
    done = [0] * len(lengths)
    while any(at < length for at, length in zip(done, lengths, strict=True)):
        waiting = [s for s in range(len(lengths)) if done[s] < lengths[s]]
        chosen = data.draw(st.lists(st.sampled_from(waiting), unique=True, min_size=1))
        counts = [data.draw(st.integers(1, min(40, lengths[s] - done[s]))) for s in chosen]
        spans = [
            (sequences[s][done[s] : done[s] + count], done[s], pages[s])
            for s, count in zip(chosen, counts, strict=True)
        ]
        got, row = program.run(spans), 0
        for s, count in zip(chosen, counts, strict=True):
            assert np.array_equal(got[row : row + count], alone[s][done[s] : done[s] + count])
            row, done[s] = row + count, done[s] + count


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_pages_are_read_as_written_by_others(kv_type: str) -> None:
    """A page that served another sequence leaves no trace, however far that one had filled it."""
    case = Attention(4, 2, 32, no_rope(32), kv_type=kv_type)
    table = table_of(case)
    tokens = tokens_of(case, 21)
    fresh = AttentionProgram(case, table, "").run([(tokens, 0, [3, 1])])
    used = AttentionProgram(case, table, "")
    used.run([(tokens_of(case, 64, 9), 0, [1, 3, 2, 0])])
    assert np.array_equal(used.run([(tokens, 0, [3, 1])]), fresh)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_infinities_do_not_stay_in_a_page(kv_type: str) -> None:
    """A sequence that overflowed answers nonsense; the next one in its pages does not."""
    case = Attention(2, 1, 16, no_rope(16), kv_type=kv_type)
    rows = np.random.default_rng(0).normal(size=(32, 64))
    rows[3] = np.inf
    table = matrix_of("bf16", rows)
    tokens = [token + 4 for token in range(21)]
    for counts in ([21], [1] * 21, [15, 2, 4]):
        fresh, used = AttentionProgram(case, table, ""), AttentionProgram(case, table, "")
        used.run([([3] * 64, 0, [0, 1, 2, 3])])
        at = 0
        for count in counts:
            span = [(tokens[at : at + count], at, [2, 1])]
            expected = fresh.run(span)
            assert np.isfinite(expected).all()
            assert np.array_equal(used.run(span), expected)
            at += count


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_two_sequences_share_full_pages(kv_type: str) -> None:
    """A prefix written once serves both; their own pages follow it."""
    case = Attention(4, 2, 32, no_rope(32), kv_type=kv_type)
    table = table_of(case)
    prefix, first, second = tokens_of(case, 2 * PAGE), tokens_of(case, 9, 1), tokens_of(case, 20, 2)
    program = AttentionProgram(case, table, "")
    program.run([(prefix, 0, [5, 9])])
    got = program.run([(first, 32, [5, 9, 2]), (second, 32, [5, 9, 7, 1])])
    for rest, rows in ((first, got[:9]), (second, got[9:])):
        alone = AttentionProgram(case, table, "").run([(prefix + rest, 0, [0, 1, 2, 3])])
        assert np.array_equal(rows, alone[2 * PAGE :])


@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_large_scores_neither_overflow_nor_vanish(kernels: str) -> None:
    """Scores in the thousands: the largest takes all, which a softmax without its peak would lose."""
    case = replace(Attention(2, 1, 16, FixedRope(16, (0.0,) * 8, factor=60.0)))
    table = table_of(case)
    tokens = tokens_of(case, 100)
    got = AttentionProgram(case, table, kernels).run([(tokens, 0, pages_for(100))])
    expected, bound = exact(case, table, tokens)
    assert np.isfinite(got).all()
    assert (np.abs(got - expected) <= np.maximum(bound, 1e-6)).all()


@pytest.mark.parametrize("head_dim", [8, 24, 272])
def test_head_sizes_the_kernels_cannot_take_are_refused(head_dim: int) -> None:
    pool, kernels = _native.Pool(1), _native.choose_kernels("")
    with pytest.raises(ValueError, match="multiple of 16, at most 256"):
        _native.Program(pool, kernels, "bf16", 1, 1, head_dim, 4, 4096, 4, 4, 16)


def test_page_sizes_are_stated() -> None:
    values = 2 * 5 * 3 * PAGE * 64  # keys and values, layers, KV heads
    assert _native.page_bytes("f32", 5, 3, 64) == 4 * values
    assert _native.page_bytes("bf16", 5, 3, 64) == 2 * values
    assert _native.page_bytes("int8", 5, 3, 64) == values + values // 64 * 4
    with pytest.raises(ValueError, match="no KV type `f16`; known: bf16, int8, f32"):
        _native.page_bytes("f16", 1, 1, 16)
