"""Twelve operators of the engine: how each is run alone, and what it does, in bytes and instructions.

The counts are those of the kernels with 512-bit registers, read off their algorithms, never fitted. A step of
a product counts as operations, because its peak is known by type; the rest counts instructions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trimtab import _native
from trimtab.engine.sampling import SamplingParams, sampling_row
from trimtab.kernels.native import NativeOps, compile_program

LANES = 16
VOCAB = 49152
HEADS, KV_HEADS, HEAD_DIM = 9, 3, 64
PAGE = _native.PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    Parameters
    ----------
    run : does it so many times and returns the seconds of one
    threads : that it runs on
    ops, unit : operations of a product, and its arithmetic
    bytes : read from memory or a cache each time
    working_set_bytes : what is gone through before the same bytes come again
    pattern : of `measure stream`, how those bytes are met
    phases : instructions of each part that needs the results of the part before; see `micro.costs`. `bytes`
        among them are streamed from behind the first cache
    chained : instructions on a chain that nothing else fills
    regions : times that the threads start and meet
    """

    name: str
    run: Callable[[int], float]
    threads: int
    ops: float = 0.0
    unit: str = "int8"
    bytes: float = 0.0
    working_set_bytes: float = 0.0
    pattern: str = "read"
    phases: tuple[Mapping[str, float], ...] = ()
    chained: Mapping[str, float] = field(default_factory=dict)
    regions: int = 0

    def seconds(self, least_s: float, stretches: int = 5) -> float:
        """Mean of one in the middle one of some stretches that take `least_s` together."""
        self.run(1)
        count, found = 1, []
        while len(found) < stretches:
            start = time.perf_counter()
            took = self.run(count)
            whole = time.perf_counter() - start
            if whole * stretches >= least_s:
                found.append(took)
            else:
                count = int(count * min(16.0, max(2.0, 1.2 * least_s / stretches / whole)))
        return statistics.median(found)


def operators(threads: int, quick: bool = False) -> Iterator[Operator]:
    """The twelve; `quick` takes a smaller matrix, which then lies in a cache."""
    rows = 8192 if quick else 65536
    for format, form, unit in (
        ("q4", "grouped", "int8"),
        ("int8", "token", "int8"),
        ("bf16", "half", "bf16"),
    ):
        yield product(f"{format}, 1 row, from memory", format, form, unit, rows, 1152, 1, threads)
    for format, form, unit in (("int8", "token", "int8"), ("bf16", "half", "bf16")):
        yield product(f"{format}, 96 rows, from the cache", format, form, unit, 1024, 576, 96, threads)
    yield norm(64, 576)
    yield residual(64, 576)
    for context in (256, 1024, 4096):
        yield attention(context)
    yield sampling("sampling, highest", SamplingParams(temperature=0), 0)
    yield sampling("sampling, with a logprob", SamplingParams(temperature=0, logprobs=0), 1)


def product(
    name: str, format: str, form: str, unit: str, outputs: int, inputs: int, rows: int, threads: int
) -> Operator:
    """A matrix product of `rows` rows."""
    pool, kernels = _native.Pool(threads), _native.choose_kernels()
    chance = np.random.default_rng(0)
    matrix = _native.Matrix(format, outputs, inputs)
    step = 1024
    for start in range(0, outputs, step):
        part = chance.standard_normal((step, inputs), dtype=np.float32)
        matrix.fill(pool, start, 0, 0, part.view(np.uint8).reshape(-1), None, 0, step)
    x = chance.standard_normal((rows, inputs), dtype=np.float32)
    out = np.empty((rows, outputs), np.float32)
    most = kernels.max_rows if rows <= kernels.max_rows else kernels.many_rows
    block = -(-rows // -(-rows // most))

    def run(count: int) -> float:
        start = time.perf_counter()
        _native.linear(pool, kernels, matrix, x, out, form, block, count)
        return (time.perf_counter() - start) / count

    return Operator(
        name, run, threads, ops=2.0 * rows * outputs * inputs, unit=unit, bytes=matrix.nbytes,
        working_set_bytes=matrix.nbytes, regions=1,
    )  # fmt: skip


def norm(rows: int, width: int, copies: int = 32) -> Operator:
    """RMS norms, one after another over the same rows, in a program; what is not a norm is taken off."""
    weight = np.ones(width, np.float32)

    def recorded(ops: NativeOps, x: Any, count: int) -> Any:
        for _ in range(count):
            x = ops.norm(x, weight, 1e-5)
        return x

    vectors = width / LANES
    return Operator(
        f"norm, {rows} rows of {width}", _difference(recorded, rows, width, copies), 1,
        bytes=2 * rows * width * 4, working_set_bytes=2 * rows * width * 4, pattern="copy",
        # A row's squares are summed in two chains and across the lanes, then a root and two divisions (a root
        # takes about two) give the factor; only then the second pass can scale by it and by the weight.
        phases=(
            {"mul_f32 512": 2 * rows * vectors, "load 512": 2 * rows * vectors,
             "store 512": rows * vectors},
        ),
        chained={"fma_f32 512": rows * vectors / 2, "permute_32 512": 2 * rows, "shuffle_8 512": 2 * rows,
                 "add_f32 512": 5 * rows, "div_f32 512": 4 * rows},
    )  # fmt: skip


def residual(rows: int, width: int, copies: int = 32) -> Operator:
    """Additions of two values, one after another, in a program."""

    def recorded(ops: NativeOps, x: Any, count: int) -> Any:
        first = x
        for _ in range(count):
            x = ops.add(x, first)
        return x

    vectors = width / LANES
    return Operator(
        f"addition, {rows} rows of {width}", _difference(recorded, rows, width, copies), 1,
        bytes=3 * rows * width * 4, working_set_bytes=3 * rows * width * 4, pattern="add",
        phases=(
            {"add_f32 512": rows * vectors, "load 512": 2 * rows * vectors, "store 512": rows * vectors},
        ),
    )  # fmt: skip


def attention(context: int) -> Operator:
    """One query row over a context of bfloat16 keys and values, three queries to a head."""
    run = _attention_run(context)
    blocks = KV_HEADS * context / LANES  # of sixteen positions, one head
    group = HEADS / KV_HEADS
    products = HEAD_DIM / 2 * group  # of bf16 pairs, once with keys and once with values
    product = {
        "dpbf16 512": blocks * products,
        "bytes": blocks * LANES * HEAD_DIM * 2,
        "broadcast_32 512": blocks * products,
    }
    # For each query: two scalings, three comparisons, an exponential of eight multiply-adds, rounding.
    softmax = {
        "fma_f32 512": blocks * group * 8,
        "mul_f32 512": blocks * group * 5,
        "add_f32 512": blocks * group * 3,
        "f32_to_bf16 512": blocks * group,
        "load 512": blocks * group * 3,
        "store 512": blocks * group * 1.5,
    }
    # Once in 64 positions the first score comes out of memory, and the last probability goes back into it.
    chain = {
        "fma_f32 512": 8,
        "mul_f32 512": 3,
        "add_f32 512": 5,
        "f32_to_bf16 512": 1,
        "store_forward 512": 2,
    }
    read = context * KV_HEADS * HEAD_DIM * 2 * 2
    return Operator(
        f"attention, context {context}", run, 1, bytes=read, working_set_bytes=read,
        phases=(product, softmax, product), chained={key: blocks / 4 * count for key, count in chain.items()},
    )  # fmt: skip


def sampling(name: str, params: SamplingParams, exponentials: int, rows: int = 16) -> Operator:
    """A token from logits: one pass for the highest, and one for the mass when it is asked for.

    Rows beyond the first show what a row costs once there is memory to work in, as in a running engine.
    """
    logits = np.random.default_rng(1).standard_normal((rows + 1, VOCAB), dtype=np.float32)
    row = sampling_row(params, 1)
    all_rows = np.concatenate([row] * (rows + 1)).view(np.uint8)

    def run(count: int) -> float:
        took = [0.0, 0.0]
        for _ in range(count):
            for which, many in enumerate((1, rows + 1)):
                start = time.perf_counter()
                _native.sample_rows(logits[:many], all_rows[: row.nbytes * many])
                took[which] += time.perf_counter() - start
        return max(took[1] - took[0], 1e-12) / count / rows

    vectors = VOCAB / LANES
    # A comparison takes a multiplier's pipe; an exponential has eleven products, and as many sums elsewhere.
    highest = {"mul_f32 512": vectors, "bytes": VOCAB * 4.0}
    mass = {"mul_f32 512": vectors * 11, "add_f32 512": vectors * 11, "bytes": VOCAB * 4.0}
    return Operator(
        name, run, 1, bytes=VOCAB * 4, working_set_bytes=logits.nbytes,
        phases=(highest, *[mass] * exponentials),
        # The highest of each lane of 1024 logits are compared one by one.
        chained={"add_f32 512": VOCAB / 1024 * LANES},
    )  # fmt: skip


def _difference(record: Callable[[NativeOps, Any, int], Any], rows: int, width: int, copies: int) -> Any:
    """Time of one operation: a program with `copies` more of them, less the same without."""
    programs = [_program(record, rows, width, count) for count in (2, 2 + copies)]

    def run(count: int) -> float:
        taken = []
        for program in programs:
            start = time.perf_counter()
            for _ in range(count):
                program()
            taken.append(time.perf_counter() - start)
        return max(taken[1] - taken[0], 1e-12) / count / copies

    return run


def _program(
    record: Callable[[NativeOps, Any, int], Any], rows: int, width: int, count: int
) -> Callable[[], None]:
    pool, kernels = _native.Pool(1), _native.choose_kernels()
    ops = NativeOps(context=64)
    table = _matrix(pool, "bf16", 64, width)
    head = _matrix(pool, "bf16", 32, width)
    x = record(ops, ops.embed(table), count)
    ops.head(x, np.ones(width, np.float32), 1e-5, head)
    program = compile_program(
        ops, pool, kernels, kv_type="bf16", layers=1, kv_heads=1, head_dim=64, num_pages=8, max_rows=rows,
        max_wanted=1, vocab=32,
    )  # fmt: skip
    pages = -(-rows // PAGE)
    arrays = [
        np.array(values, np.int32)
        for values in ([1] * rows, range(rows), [0, rows], [0, pages], range(pages), [0])
    ]
    out = np.empty((1, 32), np.float32)
    keep = (pool, table, head)
    return lambda: (program.logits(*arrays, out), keep)[0]


def _attention_run(context: int) -> Callable[[int], float]:
    """Attention alone: a program with many of them less one with few, over a cache that is already full."""
    programs = [_attention_program(context, copies) for copies in (1, 17)]

    def run(count: int) -> float:
        taken = []
        for program in programs:
            start = time.perf_counter()
            for _ in range(count):
                program()
            taken.append(time.perf_counter() - start)
        return max(taken[1] - taken[0], 1e-12) / count / 16

    return run


@dataclass(frozen=True, slots=True)
class _Rope:
    dim: int = HEAD_DIM

    def frequencies(self, context: int) -> tuple[Any, float]:
        return np.zeros(self.dim // 2, np.float32), 1.0


def _attention_program(context: int, copies: int) -> Callable[[], None]:
    pool, kernels = _native.Pool(1), _native.choose_kernels()
    width, packed = HEADS * HEAD_DIM, (HEADS + 2 * KV_HEADS) * HEAD_DIM
    ops = NativeOps(context=context + 64)
    table = _matrix(pool, "bf16", 64, packed)
    head = _matrix(pool, "bf16", 32, width)
    sizes: dict[str, Any] = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    q = ops.rope_store(ops.embed(table), 0, **sizes, rope=_Rope())
    for _ in range(copies):
        q = ops.attend(q, 0, **sizes, scale=HEAD_DIM**-0.5)
    ops.head(q, np.ones(width, np.float32), 1e-5, head)
    pages = -(-context // PAGE)
    program = compile_program(
        ops, pool, kernels, kv_type="bf16", layers=1, kv_heads=KV_HEADS, head_dim=HEAD_DIM,
        num_pages=pages, max_rows=256, max_wanted=1, vocab=32,
    )  # fmt: skip
    out = np.empty((1, 32), np.float32)
    chance = np.random.default_rng(2)

    def call(tokens: Any, start: int) -> None:
        rows = len(tokens)
        used = -(-(start + rows) // PAGE)
        arrays = (tokens, range(start, start + rows), [0, rows], [0, used], range(used), [0])
        program.logits(*(np.array(each, np.int32) for each in arrays), out)

    for start in range(0, context - 1, 64):  # fills the cache with random keys and values
        call(chance.integers(0, 32, min(64, context - 1 - start)), start)
    keep = (pool, table, head)
    last = [np.array(each, np.int32) for each in ([1], [context - 1], [0, 1], [0, pages], range(pages), [0])]
    return lambda: (program.logits(*last, out), keep)[0]


def _matrix(pool: Any, format: str, rows: int, inputs: int) -> Any:
    matrix = _native.Matrix(format, rows, inputs)
    values = np.random.default_rng(3).standard_normal((rows, inputs), dtype=np.float32)
    matrix.fill(pool, 0, 0, 0, values.view(np.uint8).reshape(-1), None, 0, rows)
    return matrix
