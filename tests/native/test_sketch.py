"""Greedy tokens by a sketch of the vocabulary projection are those of the whole projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed import KERNEL_SETS, Floats, matrix_of

from trimtab import _native
from trimtab.engine.sampling import ADJUST, SAMPLING
from trimtab.kernels.native import NativeOps, compile_program

SKETCHED = ["q8", "q8/16", "q8+min", "q8/16+min"]
POOLS = {threads: _native.Pool(threads) for threads in (1, 2, 3)}


class Projection:
    """A program of an embedding and a head, with a sketch and without.

    Parameters
    ----------
    table : (vocabulary, inputs), the embedding
    weights : (vocabulary, inputs)
    """

    def __init__(
        self,
        table: Floats,
        weights: Floats,
        format: str,
        kernels: str = "",
        threads: int = 1,
        softcap: float = 0,
    ) -> None:
        self.vocab, width = weights.shape
        pool, chosen = POOLS[threads], _native.choose_kernels(kernels)
        ops = NativeOps(64)
        embedding, self.matrix = matrix_of("bf16", table), matrix_of(format, weights)
        ops.head(ops.embed(embedding), np.ones(width, np.float32), 1e-5, self.matrix, softcap=softcap)
        sizes = {"layers": 1, "kv_heads": 1, "head_dim": 16, "num_pages": 1, "max_rows": 16, "max_wanted": 16}
        self.plain, self.sketched = (
            compile_program(ops, pool, chosen, kv_type="f32", **sizes, vocab=self.vocab, sketch=sketch)
            for sketch in (None, _native.Sketch(pool, chosen, self.matrix))
        )

    def tokens(
        self,
        program: Any,
        asked: Sequence[int],
        top: int = -1,
        masks: npt.NDArray[np.uint32] | None = None,
        which: Sequence[int] = (0,),
    ) -> tuple[Any, Any]:
        """Greedy tokens and log-probabilities after each of `asked`, in one step; `which` mask is whose."""
        rows = len(asked)
        sampling = np.zeros(rows, SAMPLING)
        sampling["top_p"], sampling["repetition"], sampling["score"], sampling["top_logprobs"] = 1, 1, -1, top
        sampling["mask"] = which
        ints = [np.array(a, np.int32) for a in (asked, range(rows), [0, rows], [0, 1], [0], range(rows))]
        tokens, logprobs = np.zeros(rows, np.int32), np.zeros(rows, np.float32)
        program.step(
            *ints,
            sampling.view(np.uint8),
            np.zeros(rows + 1, np.int32),
            np.zeros(0, ADJUST).view(np.uint8),
            masks,
            tokens,
            logprobs,
            np.zeros((0, 0), np.int32),
            np.zeros((0, 0), np.float32),
        )
        return tokens.tolist(), logprobs


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("format", SKETCHED)
@pytest.mark.parametrize("shape", [(1, 32), (16, 40), (1000, 64), (2055, 100)])
def test_same_tokens(shape: tuple[int, int], format: str, kernels: str) -> None:
    """Of vocabularies that fill their tiles and not, for one row up to more than a sketch serves."""
    random = np.random.default_rng(shape)
    weights = random.standard_normal(shape, np.float32)
    for threads in POOLS:
        projection = Projection(weights, weights, format, kernels, threads, softcap=3.0 * (threads == 2))
        for rows in (1, 2, _native.SKETCH_ROWS, _native.SKETCH_ROWS + 1):
            asked = random.integers(0, shape[0], rows).tolist()
            expected, _ = projection.tokens(projection.plain, asked)
            got, logprobs = projection.tokens(projection.sketched, asked)
            assert got == expected
            assert np.isnan(logprobs).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32), closeness=st.sampled_from([0.0, 1e-3, 0.03, 0.3]), outliers=st.integers(0, 3)
)
def test_close_calls(seed: int, closeness: float, outliers: int) -> None:
    """Hundreds of nearly equal rows, equal ones among them, and activations led by a few inputs."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((1, 96)) + closeness * random.standard_normal((700, 96))
    table = random.standard_normal((700, 96))
    table[:, :outliers] *= 50
    projection = Projection(table.astype(np.float32), weights.astype(np.float32), "q8", threads=2)
    for first in range(0, 40, 4):
        asked = list(range(first, first + 4))
        expected, _ = projection.tokens(projection.plain, asked)
        assert projection.tokens(projection.sketched, asked)[0] == expected


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("vocab", [40, 1000, 2055])
def test_masked_rows_choose_among_their_own_tokens(vocab: int, share: float, kernels: str) -> None:
    """Rows of one step have masks of their own or none; a mask that allows nothing gives no token."""
    random = np.random.default_rng([vocab, int(share * 1000)])
    weights = random.standard_normal((vocab, 64), np.float32)
    for threads in POOLS:
        projection = Projection(weights, weights, "q8", kernels, threads)
        masks = np.zeros((3, -(-vocab // 32)), np.uint32)
        for mask in masks:
            allowed = np.flatnonzero(random.random(vocab) < share)
            np.bitwise_or.at(mask, allowed // 32, (1 << (allowed % 32)).astype(np.uint32))
        for which in ([1], [3, 0], [0, 2, 1, 2], [1, 1, 2, 0, 3]):
            asked = random.integers(0, vocab, len(which)).tolist()
            expected, _ = projection.tokens(projection.plain, asked, masks=masks, which=which)
            assert projection.tokens(projection.sketched, asked, masks=masks, which=which)[0] == expected
            for token, number in zip(expected, which, strict=True):
                assert number == 0 or token == -1 or masks[number - 1][token // 32] >> (token % 32) & 1
                assert (token == -1) == (number > 0 and not masks[number - 1].any())


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 3e38])
def test_extreme_activations(value: float) -> None:
    """Where the sketch cannot tell, the whole projection does."""
    random = np.random.default_rng(1)
    weights = random.standard_normal((300, 64), np.float32)
    table = weights.copy()
    table[0] = value
    table[1, 5] = value
    projection = Projection(table, weights, "q8", threads=2)
    for asked in ([0], [1], [0, 1], [7, 1, 8]):
        expected, _ = projection.tokens(projection.plain, asked)
        assert projection.tokens(projection.sketched, asked)[0] == expected


def test_log_probabilities_take_the_whole_projection() -> None:
    weights = np.random.default_rng(2).standard_normal((500, 64), np.float32)
    projection = Projection(weights, weights, "q8")
    for program in (projection.plain, projection.sketched):
        tokens, logprobs = projection.tokens(program, [3, 4], top=0)
        assert tokens == [3, 4]
        assert np.isfinite(logprobs).all()
    assert np.array_equal(
        projection.tokens(projection.plain, [3, 4], top=0)[1],
        projection.tokens(projection.sketched, [3, 4], top=0)[1],
    )


@pytest.mark.parametrize("format", ["bf16", "int8", "q4"])
def test_formats_without_a_sketch(format: str) -> None:
    matrix = matrix_of(format, np.ones((16, 32), np.float32))
    assert _native.sketch_bytes(format, 16, 32) == 0
    with pytest.raises(ValueError, match="no sketch"):
        _native.Sketch(POOLS[1], _native.choose_kernels(), matrix)
