"""The recorder: nothing is overwritten before its last reader, places are used again, models record once.

Placement is checked by acting it out: every operation of a recording reads and writes byte ranges of an arena
that remembers who wrote what.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import _native
from trimtab.kernels.native import PLAIN, NativeOps, compile_program, place

FORMS = {
    name: _native.format_form(name) for name in ("bf16", "int8", "q4", "q4+min", "q4/16", "q8", "q8/16+min")
}
WIDTHS = [16, 40, 96, 100]
MAX_ROWS, MAX_WANTED, VOCAB = 20, 7, 259


@dataclass(frozen=True)
class Rope:
    dim: int

    def frequencies(self, context: int) -> tuple[np.ndarray, float]:
        return np.full(self.dim // 2, 1 / context, np.float32), 1.0


def matrix(rows: int, inputs: int, format: str) -> Any:
    return SimpleNamespace(rows=rows, inputs=inputs, form=FORMS[format])


@st.composite
def recordings(draw: st.DrawFn) -> NativeOps:
    """Any model: each operation reads values chosen among all that fit."""
    ops = NativeOps(64)
    formats = st.sampled_from(sorted(FORMS))
    values = [ops.embed(matrix(VOCAB, draw(st.sampled_from(WIDTHS)), "bf16"))]
    for index in range(draw(st.integers(0, 14))):
        x = draw(st.sampled_from(values))
        like = [value for value in values if value.width == x.width]
        kind = draw(st.sampled_from(["norm", "linear", "residual", "gated", "add", "attention"]))
        if kind == "norm":
            made = ops.norm(x, None, 1e-5)
        elif kind == "linear":
            made = ops.linear(x, matrix(draw(st.sampled_from(WIDTHS)), x.width, draw(formats)))
        elif kind == "residual":
            add = draw(st.sampled_from(values))
            made = ops.linear(x, matrix(add.width, x.width, draw(formats)), add=add)
        elif kind == "gated":
            made = ops.gated(x, matrix(draw(st.sampled_from(WIDTHS)), x.width, draw(formats)), "silu")
        elif kind == "add":
            made = ops.add(x, draw(st.sampled_from(like)))
        else:
            sizes = {"heads": 4, "kv_heads": 2, "head_dim": 16}
            qkv = ops.linear(x, matrix(128, x.width, draw(formats)))
            q = ops.rope_store(qkv, index, **sizes, rope=Rope(draw(st.sampled_from([8, 16]))))
            made = ops.attend(q, index, **sizes, scale=0.25)
        values.append(made)
    x = draw(st.sampled_from(values))
    ops.head(x, None, 1e-5, matrix(VOCAB, x.width, draw(formats)))
    return ops


class Arena:
    """Byte ranges and what they hold."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held: dict[tuple[int, int], Any] = {}

    def write(self, offset: int, size: int, what: Any) -> None:
        assert offset >= 0
        assert offset % 64 == 0
        assert offset + size <= self.size
        self.held = {
            (start, stop): value
            for (start, stop), value in self.held.items()
            if stop <= offset or start >= offset + size
        }
        self.held[offset, offset + size] = what

    def read(self, offset: int, size: int, what: Any) -> tuple[int, int]:
        assert self.held.get((offset, offset + size)) == what, "overwritten before its last reader"
        return offset, offset + size


def bytes_of(form: tuple[str, int, int], width: int, rows: int = MAX_ROWS) -> int:
    return int(_native.form_bytes(*form, width, rows))


def wanted_forms(node: Any) -> list[tuple[str, int, int]]:
    """In which form an operation reads each of its inputs."""
    if node.kind in ("multiply", "gated"):
        return [node.arguments["matrix"].form, PLAIN][: len(node.inputs)]
    return [PLAIN] * len(node.inputs)


@given(recordings())
def test_every_value_survives_until_its_last_reader(ops: NativeOps) -> None:
    layout = place(ops.nodes, MAX_ROWS, MAX_WANTED, VOCAB)
    arena = Arena(layout.scratch_bytes)
    for index, node in enumerate(ops.nodes):
        ranges = [
            arena.read(value.offset[form], bytes_of(form, value.width), (id(value), form))
            for value, form in zip(node.inputs, wanted_forms(node), strict=True)
        ]
        if node.kind == "head":
            x = node.inputs[0]
            packed = bytes_of(node.arguments["matrix"].form, x.width, MAX_WANTED)
            arena.write(layout.packed_offset, packed, "packed")
            arena.write(layout.logits_offset, bytes_of(PLAIN, VOCAB, MAX_WANTED), "logits")
            arena.read(x.offset[PLAIN], bytes_of(PLAIN, x.width), (id(x), PLAIN))
            arena.read(layout.packed_offset, packed, "packed")
            continue
        out = node.output
        derived = [form for _, form in layout.passes.get(index, [])]
        (direct,) = [form for form in out.offset if form not in derived]
        start, stop = out.offset[direct], out.offset[direct] + bytes_of(direct, out.width)
        # Additions go element by element, so they may write over what they add; nothing else may.
        for position, (low, high) in enumerate(ranges):
            adds = node.kind == "add" or (node.kind == "multiply" and position == 1)
            assert stop <= low or start >= high or (adds and (low, high) == (start, stop))
        arena.write(start, stop - start, (id(out), direct))
        for value, form in layout.passes.get(index, []):
            assert value is out
            assert direct == PLAIN
            size = bytes_of(form, value.width)
            arena.write(value.offset[form], size, (id(value), form))
            arena.read(start, stop - start, (id(out), PLAIN))
        assert set(out.offset) >= set(out.forms)


def layer(ops: NativeOps, x: Any, index: int, format: str = "q4") -> Any:
    """A decoder layer in the usual shape: hidden 96, 6 heads of 16, MLP 160."""
    sizes = {"heads": 6, "kv_heads": 2, "head_dim": 16}
    h = ops.linear(ops.norm(x, None, 1e-5), matrix(160, 96, format))
    h = ops.attend(ops.rope_store(h, index, **sizes, rope=Rope(16)), index, **sizes, scale=0.25)
    x = ops.linear(h, matrix(96, 96, format), add=x)
    h = ops.gated(ops.norm(x, None, 1e-5), matrix(160, 96, format), "silu")
    return ops.linear(h, matrix(96, 160, format), add=x)


def recorded(layers: int, format: str = "q4") -> NativeOps:
    ops = NativeOps(64)
    x = ops.embed(matrix(VOCAB, 96, format))
    for index in range(layers):
        x = layer(ops, x, index, format)
    ops.head(x, None, 1e-5, matrix(VOCAB, 96, format))
    return ops


def test_scratch_does_not_grow_with_layers() -> None:
    sizes = [place(recorded(n).nodes, MAX_ROWS, MAX_WANTED, VOCAB).scratch_bytes for n in (2, 30)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("format", "packed"), [("q4", 1), ("bf16", 1), ("int8", 2)])
def test_values_are_written_as_their_reader_wants_them(format: str, packed: int) -> None:
    """Norms and gates write packed rows; what attention leaves, and a row's own scale, take one pass."""
    layout = place(recorded(3, format).nodes, MAX_ROWS, MAX_WANTED, VOCAB)
    assert sum(map(len, layout.passes.values())) == 3 * packed


def test_the_residual_stays_where_it_is() -> None:
    ops = recorded(4)
    place(ops.nodes, MAX_ROWS, MAX_WANTED, VOCAB)
    stream = [
        ops.nodes[0],
        *(node for node in ops.nodes if len(node.inputs) == 2 and node.kind == "multiply"),
    ]
    assert len(stream) == 9
    assert len({node.output.offset[PLAIN] for node in stream if node.output is not None}) == 1


def test_angles_are_worked_out_once_a_rope() -> None:
    ops = NativeOps(64)
    x = ops.embed(matrix(VOCAB, 128, "bf16"))
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 16}
    for index, rope in enumerate((Rope(16), Rope(8), Rope(16), Rope(16))):
        ops.rope_store(x, index, **sizes, rope=rope)
    angles = [node for node in ops.nodes if node.kind == "angles"]
    assert [len(node.arguments["frequencies"]) for node in angles] == [8, 4]
    assert angles[0].arguments["frequencies"][0] == np.float32(1 / 64), "the context reaches the rope"


def test_a_program_holds_on_to_what_it_points_at() -> None:
    """Pool and matrices outlive their Python names; the recording may go."""
    ops = NativeOps(64)
    pool = _native.Pool(2)
    table = _native.Matrix("bf16", 64, 40)
    rows = np.random.default_rng(0).normal(size=(64, 40)).astype(np.float32)
    table.fill(pool, 0, 0, 0, rows.view(np.uint8).reshape(-1), None, 0, 64)
    ops.head(ops.embed(table), np.ones(40, np.float32), 1e-5, table)
    sizes = {"layers": 1, "kv_heads": 1, "head_dim": 16, "num_pages": 1}
    program = compile_program(
        ops, pool, _native.choose_kernels(""), kv_type="f32", **sizes, max_rows=4, max_wanted=4, vocab=64
    )

    def answer() -> np.ndarray:
        ints = [np.array(a, np.int32) for a in ([3, 9], [0, 1], [0, 2], [0, 1], [0], [0, 1])]
        out = np.empty((2, 64), np.float32)
        program.logits(*ints, out)
        return out

    before = answer()
    del ops, pool, table
    gc.collect()
    assert np.array_equal(answer(), before)
    assert before.any()
