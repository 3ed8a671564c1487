"""Programs: each operation answers what numpy says, and a batch that does not hold together changes nothing.

One operation at a time is recorded between an embedding and a head that passes its input through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from attention_case import Attention, AttentionProgram, exact, no_rope, table_of
from packed import FORMATS, KERNEL_SETS, POOL, ULP, Floats, matrix_of, multiply, unpacked

from trimtab import _native
from trimtab.engine.sampling import ADJUST, SAMPLING
from trimtab.kernels.native import NativeOps, compile_program

WIDTHS = [1, 16, 33, 40, 96, 100]
TOKENS = [3, 0, 7, 7, 5, 1, 2, 6, 4, 3, 0, 1, 5]  # a block of any kernel set and a rest


def program_of(
    width: int, record: Callable[[NativeOps], Any], kernels: str, max_rows: int = 16, softcap: float = 0.0
) -> Any:
    """A program whose logits are the recorded value, `width` wide."""
    ops = NativeOps(64)
    value = record(ops)
    ops.head(
        value, np.full(width, 2.0**20, np.float32), 2.0**40, matrix_of("bf16", np.eye(width)), softcap=softcap
    )
    chosen = _native.choose_kernels(kernels)
    sizes = {
        "layers": 1,
        "kv_heads": 1,
        "head_dim": 16,
        "num_pages": 1,
        "max_rows": max_rows,
        "max_wanted": max_rows,
    }
    return compile_program(ops, POOL, chosen, kv_type="f32", **sizes, vocab=width)


def run(
    width: int, record: Callable[[NativeOps], Any], kernels: str, tokens: list[int], **more: Any
) -> Floats:
    program = program_of(width, record, kernels, **more)
    rows = len(tokens)
    ints = (tokens, range(rows), [0, rows], [0, 1], [0], range(rows))
    out = np.empty((rows, width), np.float32)
    program.logits(*(np.array(a, np.int32) for a in ints), out)
    return out


def values(rows: int, width: int, seed: int = 0, size: float = 1.0) -> Floats:
    return np.random.default_rng(seed).normal(0, size, (rows, width)).astype(np.float32)


def table(width: int, size: float = 1.0) -> Any:
    """An embedding of eight tokens."""
    return matrix_of("q8", values(8, width, size=size))


def tokens_below(width: int) -> list[int]:
    """A program here answers `width` logits, so that is its vocabulary."""
    return [token % min(8, width) for token in TOKENS]


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("width", WIDTHS)
def test_embed(width: int, kernels: str) -> None:
    packed = table(width)
    tokens = tokens_below(width)
    rows = unpacked(packed)[tokens]
    assert np.array_equal(run(width, lambda ops: ops.embed(packed), kernels, tokens), rows)
    scaled = run(width, lambda ops: ops.embed(packed, scale=11.3), kernels, tokens)
    assert np.array_equal(scaled, rows * np.float32(11.3))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("width", WIDTHS)
def test_norm(width: int, kernels: str) -> None:
    """The sum of squares errs by a rounding in each of a lane's steps; root, quotient and products by one."""
    packed = table(width, size=0.03)
    tokens, weight = tokens_below(width), values(1, width, 1)[0]
    x = unpacked(packed)[tokens].astype(np.float64)
    expected = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * weight
    got = run(width, lambda ops: ops.norm(ops.embed(packed), weight, 1e-5), kernels, tokens)
    assert (np.abs(got - expected) <= (width / 32 + 12) * ULP * np.abs(expected)).all()


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("width", WIDTHS)
def test_linear_with_bias_and_residual(width: int, kernels: str) -> None:
    packed = table(width)
    tokens, bias = tokens_below(width), values(1, width, 2)[0]
    weights = matrix_of("bf16", values(width, width, 3))
    x = unpacked(packed)[tokens]
    product = multiply(weights, x, kernels)

    def linear(ops: NativeOps) -> Any:
        return ops.linear(ops.embed(packed), weights)

    def biased(ops: NativeOps) -> Any:
        return ops.linear(ops.embed(packed), weights, bias=bias)

    def residual(ops: NativeOps) -> Any:
        e = ops.embed(packed)
        return ops.linear(e, weights, bias=bias, add=e)

    assert np.array_equal(run(width, linear, kernels, tokens), product)
    assert np.array_equal(run(width, biased, kernels, tokens), product + bias)
    assert np.array_equal(run(width, residual, kernels, tokens), product + bias + x)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("width", WIDTHS)
def test_add(width: int, kernels: str) -> None:
    packed = table(width)
    tokens, x = tokens_below(width), unpacked(packed)[tokens_below(width)]

    def both(ops: NativeOps) -> Any:
        e = ops.embed(packed)
        return ops.add(ops.add(ops.embed(packed, scale=3.0), e), e)

    assert np.array_equal(run(width, both, kernels, tokens), x * np.float32(3) + x + x)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("size", [0.3, 3.0, 300.0])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_activations(activation: str, size: float, kernels: str) -> None:
    """The tanh errs by six roundings of 1, which the gate multiplies; far from zero it must be exact."""
    width = 40
    packed = table(width)
    tokens = tokens_below(width)
    x = unpacked(packed)[tokens]
    matrix = matrix_of("bf16", values(width, width, 4, size), values(width, width, 5, 1 / size))
    halves = unpacked(matrix)
    g = multiply(matrix_of("bf16", halves[:width]), x, kernels).astype(np.float64)
    u = multiply(matrix_of("bf16", halves[width:]), x, kernels).astype(np.float64)
    with np.errstate(over="ignore"):
        if activation == "silu":
            expected = g / (1 + np.exp(-g)) * u
        else:
            expected = 0.5 * g * (1 + np.tanh(0.7978845608028654 * (g + 0.044715 * g**3))) * u
    got = run(width, lambda ops: ops.gated(ops.embed(packed), matrix, activation), kernels, tokens)
    assert np.isfinite(got).all()
    assert (np.abs(got - expected) <= 12 * ULP * np.abs(g * u)).all()


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_gate_feeds_the_next_multiply_in_its_own_form(format: str, kernels: str) -> None:
    """Packed where it is computed, a gated product equals the one that was stored and packed again."""
    for mlp in (16, 40, 64, 100):
        packed = table(33)
        x = unpacked(packed)[TOKENS]
        gate = matrix_of("bf16", values(mlp, 33, 6), values(mlp, 33, 7))
        down = matrix_of(format, values(33, mlp, 8))
        got = run(
            33,
            lambda ops, g=gate, d=down, t=packed: ops.linear(ops.gated(ops.embed(t), g, "silu"), d),
            kernels,
            TOKENS,
        )
        assert np.array_equal(got, multiply(down, multiply(gate, x, kernels).copy(), kernels))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_values_read_in_several_forms(kernels: str) -> None:
    """One value for a norm and four matrices, each of which wants it packed in its own way."""
    packed = table(40)
    x = unpacked(packed)[TOKENS]
    matrices = [matrix_of(format, values(40, 40, 9)) for format in ("bf16", "int8", "q4", "q8/16+min")]

    def record(ops: NativeOps) -> Any:
        e = ops.embed(packed)
        out = e
        for matrix in matrices:
            out = ops.add(out, ops.linear(e, matrix))
        return out

    expected = x.copy()
    for matrix in matrices:
        expected = expected + multiply(matrix, x, kernels)
    assert np.array_equal(run(40, record, kernels, TOKENS), expected)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("width", [16, 37, 100])
def test_softcap(width: int, kernels: str) -> None:
    packed = table(width, size=40)
    tokens = tokens_below(width)
    x = unpacked(packed)[tokens].astype(np.float64)
    got = run(width, lambda ops: ops.embed(packed), kernels, tokens, softcap=30.0)
    assert (np.abs(got - 30 * np.tanh(x / 30)) <= 30 * 8 * ULP).all()


# ---- batches -------------------------------------------------------------------------------------------------  # noqa: E501

CASE = Attention(4, 2, 32, no_rope(32), kv_type="bf16")
Ints = npt.NDArray[np.int32]


def ints(*values: int) -> Ints:
    return np.array(values, np.int32)


GOOD: dict[str, Ints] = {  # two spans: 3 rows behind 14 others, 2 rows of a new sequence
    "tokens": ints(5, 6, 7, 8, 9),
    "positions": ints(14, 15, 16, 0, 1),
    "span_start": ints(0, 3, 5),
    "page_start": ints(0, 2, 3),
    "pages": ints(4, 2, 1),
    "wanted": ints(2, 4),
}
MALFORMED = {
    "token past the vocabulary": {"tokens": ints(5, 6, 128, 8, 9)},
    "negative token": {"tokens": ints(5, 6, -1, 8, 9)},
    "too few tokens": {"tokens": ints(5, 6, 7, 8)},
    "no rows": {
        "tokens": ints(), "positions": ints(), "span_start": ints(0, 0), "page_start": ints(0, 0),
        "pages": ints(), "wanted": ints(),
    },
    "too many rows": {
        "tokens": np.zeros(257, np.int32), "positions": np.arange(257, dtype=np.int32),
        "span_start": ints(0, 257), "page_start": ints(0, 17), "pages": np.arange(17, dtype=np.int32),
    },
    "too few positions": {"positions": ints(14, 15, 16, 0)},
    "negative position": {"positions": ints(14, 15, 16, -1, 0)},
    "position past its pages": {"positions": ints(30, 31, 32, 0, 1)},
    "position far past its pages": {"positions": ints(14, 15, 16, 2**31 - 2, 2**31 - 1)},
    "positions with a gap": {"positions": ints(14, 15, 17, 0, 1)},
    "positions backwards": {"positions": ints(16, 15, 14, 0, 1)},
    "no spans": {"span_start": ints(0), "page_start": ints(0)},
    "empty arrays of spans": {"span_start": ints(), "page_start": ints()},
    "first span late": {"span_start": ints(1, 3, 5)},
    "last span short": {"span_start": ints(0, 3, 4)},
    "last span long": {"span_start": ints(0, 3, 6)},
    "empty span": {"span_start": ints(0, 0, 5)},
    "spans backwards": {"span_start": ints(0, 2**31 - 1, 5)},
    "negative span": {"span_start": ints(0, -5, 5)},
    "page starts for other spans": {"page_start": ints(0, 3)},
    "page starts falling": {"page_start": ints(0, 3, 2)},
    "negative page start": {"page_start": ints(-1, 2, 3)},
    "page starts past the pages": {"page_start": ints(0, 2, 4)},
    "page past the pool": {"pages": ints(4, 64, 1)},
    "negative page": {"pages": ints(4, -1, 1)},
    "wanted past the rows": {"wanted": ints(2, 5)},
    "negative wanted": {"wanted": ints(-1, 4)},
    "too many wanted": {"wanted": np.zeros(257, np.int32)},
}  # fmt: skip


def logits(program: Any, batch: dict[str, Ints]) -> Floats:
    out = np.full((len(batch["wanted"]), CASE.width), 7, np.float32)
    try:
        program.logits(*batch.values(), out)
    except ValueError:
        assert (out == 7).all(), "a refused batch wrote results"
        raise
    return out


def step(program: Any, batch: dict[str, Ints], change: dict[str, Any] | None = None) -> npt.NDArray[np.int32]:
    wanted = len(batch["wanted"])
    sampling = np.zeros(wanted, SAMPLING)
    sampling["score"], sampling["repetition"] = -1, 1
    arrays: dict[str, Any] = {
        "sampling": sampling.view(np.uint8), "adjust_start": np.zeros(wanted + 1, np.int32),
        "adjust": np.zeros(0, np.uint8), "mask": None, "out_tokens": np.full(wanted, -7, np.int32),
        "out_logprobs": np.zeros(wanted, np.float32), "top_tokens": np.zeros((0, 0), np.int32),
        "top_logprobs": np.zeros((0, 0), np.float32),
    }  # fmt: skip
    arrays |= change or {}
    try:
        program.step(**batch, **arrays)
    except ValueError:
        assert (arrays["out_tokens"] == -7).all(), "a refused batch wrote results"
        raise
    return np.asarray(arrays["out_tokens"])


def begun() -> Any:
    """A program whose first sequence holds 14 positions in page 4."""
    program = AttentionProgram(CASE, table_of(CASE), "")
    program.run([(list(range(14)), 0, [4, 2])])
    return program


def test_a_batch_answers_its_wanted_rows() -> None:
    case = begun()
    expected, bound = exact(CASE, table_of(CASE), [*range(14), 5, 6, 7])
    got = logits(case.program, GOOD)
    assert (np.abs(got[0] - expected[16]) <= bound[16]).all()
    every = logits(case.program, GOOD | {"wanted": ints(0, 1, 2, 3, 4)})
    assert np.array_equal(every[[2, 4]], got)
    assert logits(case.program, GOOD | {"wanted": ints()}).shape == (0, 128)
    assert np.array_equal(step(case.program, GOOD), got.argmax(axis=1))


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_batches_change_nothing(name: str) -> None:
    """Pages, results and scratch: what runs afterwards is as if the batch had never come."""
    case, untouched = begun(), begun()
    batch = GOOD | MALFORMED[name]
    for attempt in (logits, step):
        with pytest.raises(ValueError, match=r"[a-z]"):
            attempt(case.program, batch)
    after = GOOD | {"tokens": ints(11, 12, 13, 8, 9)}
    assert np.array_equal(logits(case.program, after), logits(untouched.program, after))


def records(count: int, **fields: Any) -> npt.NDArray[np.uint8]:
    rows = np.zeros(count, SAMPLING)
    rows["score"], rows["repetition"] = -1, 1
    for name, value in fields.items():
        rows[name] = value
    return rows.view(np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": records(1)},
        {"sampling": records(2)[:-1]},
        {"sampling": records(2, score=128)},
        {"sampling": records(2, top_logprobs=1)},
        {"adjust_start": ints(0, 0)},
        {"adjust_start": ints(0, 1, 1)},
        {"adjust_start": ints(0, 1, 0), "adjust": np.zeros(1, ADJUST).view(np.uint8)},
        {"adjust_start": ints(-1, 0, 0)},
        {"mask": np.ones((2, 3), np.uint32)},
        {"sampling": records(2, mask=1)},
        {"sampling": records(2, mask=2), "mask": np.ones((1, 4), np.uint32)},
        {"sampling": records(2, mask=-1), "mask": np.ones((1, 4), np.uint32)},
        {"mask": np.ones(8, np.uint32)},
        {"out_logprobs": np.zeros(1, np.float32)},
        {"top_tokens": np.zeros((2, 5), np.int32), "top_logprobs": np.zeros((2, 4), np.float32)},
    ],
)
def test_malformed_sampling_changes_nothing(change: dict[str, Any]) -> None:
    case, untouched = begun(), begun()
    with pytest.raises(ValueError, match=r"[a-z]"):
        step(case.program, GOOD, change)
    after = GOOD | {"tokens": ints(11, 12, 13, 8, 9)}
    assert np.array_equal(logits(case.program, after), logits(untouched.program, after))


@pytest.mark.parametrize("shape", [(2, 127), (2, 129), (1, 128), (3, 128), (256,)])
def test_results_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        begun().program.logits(*GOOD.values(), np.zeros(shape, np.float32))
