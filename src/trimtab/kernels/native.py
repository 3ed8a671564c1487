"""The recording backend: a model's Python function becomes a native program.

`NativeOps` notes every operation with the values it reads. `compile_program` then decides in which form each
value is stored (a multiply wants its activations packed, a norm wants plain rows), where in one scratch arena
it lies (a value's place is free again after its last reader), and hands the list to the native module. It runs
once at start; a step never enters Python. Nothing here imports torch.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trimtab import _native
from trimtab.kernels.chooser import KernelChooser
from trimtab.kernels.ops import RopeLike

FormKey = tuple[str, int, int]
"""Activation form: kind, group, zero point (see native/layout.h)."""

PLAIN: FormKey = ("plain", 32, 0)
ROUGH: FormKey = _native.format_form("q4")
"""Activations for a sketch of the vocabulary projection."""


@dataclass(slots=True, eq=False)
class _Value:
    """One result: its width, and in which forms its readers want it."""

    width: int
    birth: int
    forms: dict[FormKey, int] = field(default_factory=dict)  # form -> index of its last reader
    offset: dict[FormKey, int] = field(default_factory=dict)

    def read(self, form: FormKey, reader: int) -> None:
        self.forms[form] = reader


@dataclass(slots=True)
class _Node:
    kind: str
    inputs: tuple[_Value, ...]
    output: _Value | None
    arguments: dict[str, Any]


class NativeOps:
    """Implements `Ops` by taking notes; see the module text.

    Parameters
    ----------
    names : where in the model a weight belongs, by its `id`: `layers.3.mlp.down`
    """

    def __init__(self, context: int, names: Mapping[int, str] | None = None) -> None:
        self.context = context
        self.nodes: list[_Node] = []
        self.names = names or {}
        self.operations: list[dict[str, Any]] = []
        """Of the compiled program, in its order: what whoever reads its times must know of each."""
        self._angles: dict[Any, _Value] = {}

    def _note(
        self, kind: str, width: int | None, reads: tuple[tuple[_Value, FormKey], ...] = (), **arguments: Any
    ) -> Any:
        index = len(self.nodes)
        for value, form in reads:
            value.read(form, index)
        output = None if width is None else _Value(width, index)
        self.nodes.append(_Node(kind, tuple(value for value, _ in reads), output, arguments))
        return output

    def embed(self, table: Any, *, scale: float = 1.0) -> Any:
        return self._note("embed", table.inputs, table=table, scale=scale)

    def norm(self, x: Any, weight: Any, eps: float) -> Any:
        return self._note("norm", x.width, ((x, PLAIN),), weight=weight, eps=eps)

    def linear(self, x: Any, matrix: Any, *, bias: Any = None, add: Any = None) -> Any:
        reads = ((x, matrix.form),) if add is None else ((x, matrix.form), (add, PLAIN))
        return self._note("multiply", matrix.rows, reads, matrix=matrix, bias=bias, activation="silu")

    def gated(self, x: Any, matrix: Any, activation: str) -> Any:
        return self._note(
            "gated", matrix.rows, ((x, matrix.form),), matrix=matrix, bias=None, activation=activation
        )

    def rope_store(
        self, qkv: Any, layer: int, *, heads: int, kv_heads: int, head_dim: int, rope: RopeLike,
        q_norm: Any = None, k_norm: Any = None, eps: float = 0.0,
    ) -> Any:  # fmt: skip
        if rope not in self._angles:
            frequencies, factor = rope.frequencies(self.context)
            frequencies = np.ascontiguousarray(frequencies, np.float32)
            self._angles[rope] = self._note("angles", rope.dim, frequencies=frequencies, factor=float(factor))
        angles = self._angles[rope]
        return self._note(
            "rope_store", heads * head_dim, ((qkv, PLAIN), (angles, PLAIN)),
            layer=layer, heads=heads, q_norm=q_norm, k_norm=k_norm, eps=eps,
        )  # fmt: skip

    def attend(
        self, q: Any, layer: int, *, heads: int, kv_heads: int, head_dim: int, scale: float,
        window: int = 0, softcap: float = 0.0,
    ) -> Any:  # fmt: skip
        return self._note(
            "attend", heads * head_dim, ((q, PLAIN),),
            layer=layer, heads=heads, scale=scale, softcap=softcap, window=window,
        )  # fmt: skip

    def add(self, x: Any, y: Any) -> Any:
        return self._note("add", x.width, ((x, PLAIN), (y, PLAIN)))

    def head(self, x: Any, norm: Any, eps: float, matrix: Any, *, softcap: float = 0.0) -> Any:
        self._note("head", None, ((x, PLAIN),), matrix=matrix, weight=norm, eps=eps, softcap=softcap)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where every value of a recording lies, for at most `max_rows` rows and `max_wanted` wanted rows."""

    scratch_bytes: int
    logits_offset: int
    packed_offset: int
    rough_offset: int
    passes: dict[int, list[tuple[_Value, FormKey]]]  # node index -> forms to derive right after it


class _Arena:
    """First-fit allocation over a growing span, for values whose lifetimes are known."""

    def __init__(self) -> None:
        self.live: list[tuple[int, int]] = []  # (offset, size), sorted
        self.size = 0

    def take(self, size: int) -> int:
        at = 0
        for offset, length in self.live:
            if offset - at >= size:
                break
            at = offset + length
        self.live.append((at, size))
        self.live.sort()
        self.size = max(self.size, at + size)
        return at

    def give(self, offset: int) -> None:
        self.live = [piece for piece in self.live if piece[0] != offset]


def _direct_form(node: _Node, value: _Value) -> FormKey:
    """The form the operation itself writes; the others are derived by a pack pass."""
    packed = [form for form in value.forms if form != PLAIN]
    if PLAIN in value.forms or len(packed) != 1:
        return PLAIN
    if node.kind == "norm" or (node.kind == "gated" and packed[0][0] != "token"):
        return packed[0]
    return PLAIN


def place(nodes: list[_Node], max_rows: int, max_wanted: int, vocab: int) -> Layout:
    """Assign offsets to all values and forms; see `Layout`."""
    arena = _Arena()
    passes: dict[int, list[tuple[_Value, FormKey]]] = {}
    ending: dict[int, list[int]] = {}

    def allocate(value: _Value, form: FormKey, last: int) -> None:
        rows = max_rows
        value.offset[form] = arena.take(_native.form_bytes(*form, value.width, rows))
        ending.setdefault(last, []).append(value.offset[form])

    for index, node in enumerate(nodes):
        value = node.output
        if value is not None:
            direct = _direct_form(node, value)
            last = max(value.forms.values(), default=index)
            alias = _residual(node, index)
            if alias is not None and direct == PLAIN:
                # In place: the residual's place lives on under the new value's name.
                offset = alias.offset[PLAIN]
                value.offset[PLAIN] = offset
                ending[index].remove(offset)
                ending.setdefault(value.forms.get(PLAIN, index), []).append(offset)
            elif direct == PLAIN:
                allocate(value, PLAIN, value.forms.get(PLAIN, index))
            for form in value.forms:
                if form == PLAIN:
                    continue
                allocate(value, form, value.forms[form])
                if form != direct:
                    passes.setdefault(index, []).append((value, form))
            del last
        if node.kind == "head":
            break
        for offset in ending.pop(index, []):
            arena.give(offset)
    head = nodes[-1]
    form = head.arguments["matrix"].form
    packed = arena.take(_native.form_bytes(*form, head.inputs[0].width, max_wanted))
    rough = arena.take(_native.form_bytes(*ROUGH, head.inputs[0].width, _native.SKETCH_ROWS))
    logits = arena.take(_native.form_bytes(*PLAIN, vocab + 15, max_wanted))
    return Layout(arena.size, logits, packed, rough, passes)


def _residual(node: _Node, index: int) -> _Value | None:
    """The operand an addition may overwrite: nobody reads it afterwards."""
    if node.kind == "multiply" and len(node.inputs) == 2:
        candidate = node.inputs[1]
    elif node.kind == "add":
        candidate = node.inputs[0]
    else:
        return None
    return candidate if candidate.forms[PLAIN] == index and PLAIN in candidate.offset else None


def _single_readers(nodes: list[_Node]) -> Iterator[tuple[_Value, FormKey, _Node]]:
    """Packed values that one product reads: it alone decides how many rows their blocks have."""
    readers: dict[tuple[int, FormKey], list[tuple[_Value, _Node]]] = {}
    for node in nodes:
        if node.kind in ("multiply", "gated"):
            value = node.inputs[0]
            readers.setdefault((id(value), node.arguments["matrix"].form), []).append((value, node))
    for (_, form), found in readers.items():
        if len(found) == 1:
            yield found[0][0], form, found[0][1]


def compile_program(
    ops: NativeOps, pool: Any, kernels: Any, *, kv_type: str, layers: int, kv_heads: int, head_dim: int,
    num_pages: int, max_rows: int, max_wanted: int, vocab: int, sketch: Any = None,
    chooser: KernelChooser | None = None,
) -> Any:  # fmt: skip
    """Turn a recording into a native program.

    Parameters
    ----------
    sketch : `_native.Sketch` of the head's matrix; greedy steps of few rows then read less of it
    chooser : how each layer's product is cut into pieces; default: as the kernels would

    Returns
    -------
    `_native.Program`, holding its scratch arena and KV pages; call `step` with a batch's arrays
    """
    layout = place(ops.nodes, max_rows, max_wanted, vocab)
    program = _native.Program(
        pool, kernels, kv_type, layers, kv_heads, head_dim, num_pages, layout.scratch_bytes, max_rows,
        max_wanted, vocab,
    )  # fmt: skip

    pick = (chooser or KernelChooser()).pick
    blocks = {
        (id(value), form): pick(node.arguments["matrix"]) for value, form, node in _single_readers(ops.nodes)
    }

    def at(value: _Value, form: FormKey = PLAIN) -> Any:
        found = _native.Place(value.offset[form], value.width, *form)
        found.block(blocks.get((id(value), form), ()))
        return found

    position_bytes = _native.page_bytes(kv_type, 1, kv_heads, head_dim) / _native.PAGE_TOKENS
    cache = {"kv_heads": kv_heads, "head_dim": head_dim, "kv_type": kv_type, "position_bytes": position_bytes}
    nowhere = _native.Place(-1, 0)
    module = ""
    for index, node in enumerate(ops.nodes):
        a = node.arguments
        module = _module(node, module, ops.names)
        described = _described(node, cache)
        ops.operations.append({"kind": node.kind, "module": module, **described})
        if node.kind == "head":
            ops.operations[-1]["sketch_bytes"] = 0 if sketch is None else sketch.nbytes
            (x,) = node.inputs
            program.head(
                a["matrix"], sketch, at(x), _native.Place(layout.packed_offset, x.width, *a["matrix"].form),
                _native.Place(layout.rough_offset, x.width, *ROUGH),
                _native.Place(layout.logits_offset, a["matrix"].rows), a["weight"], a["eps"], a["softcap"],
            )  # fmt: skip
            continue
        out = node.output
        assert out is not None
        target = at(out, _direct_form(node, out))
        if node.kind == "embed":
            program.embed(a["table"], target, a["scale"])
        elif node.kind == "angles":
            program.angles(target, a["frequencies"], a["factor"])
        elif node.kind == "norm":
            program.norm(at(node.inputs[0]), target, a["weight"], a["eps"])
        elif node.kind in ("multiply", "gated"):
            matrix = a["matrix"]
            add = at(node.inputs[1]) if len(node.inputs) == 2 else nowhere
            program.multiply(
                matrix, at(node.inputs[0], matrix.form), target, add, a["bias"], a["activation"], pick(matrix)
            )
        elif node.kind == "rope_store":
            qkv, angles = node.inputs
            program.rope_store(
                at(qkv), target, at(angles), a["layer"], a["heads"], a["q_norm"], a["k_norm"], a["eps"]
            )
        elif node.kind == "attend":
            program.attend(
                at(node.inputs[0]), target, a["layer"], a["heads"], a["scale"], a["softcap"], a["window"]
            )
        elif node.kind == "add":
            program.add(at(node.inputs[0]), at(node.inputs[1]), target)
        for value, form in layout.passes.get(index, []):
            program.pack(at(value), at(value, form))
            ops.operations.append({"kind": "pack", "module": module, "width": value.width, "out": form[0]})
    return program


def _module(node: _Node, before: str, names: Mapping[int, str]) -> str:
    """Where in the model an operation belongs: with its weight, or in the layer it works on."""
    a = node.arguments
    if node.kind in ("embed", "head", "angles"):
        return node.kind
    if node.kind in ("rope_store", "attend"):
        return f"layers.{a['layer']}.attn.{node.kind}"
    if node.kind == "add":
        return f"{before.rpartition('.')[0]}.add".lstrip(".")
    return names.get(id(a["weight" if node.kind == "norm" else "matrix"]), node.kind)


def _described(node: _Node, cache: dict[str, Any]) -> dict[str, Any]:
    """Sizes of an operation, as plain values; `trimtab.machine.dissect.work` counts its work from them."""
    a, out = node.arguments, node.output
    known: dict[str, Any] = {} if out is None else {"width": out.width, "out": _direct_form(node, out)[0]}
    if "matrix" in a:
        m = a["matrix"]
        known |= {
            "outputs": m.rows, "inputs": m.inputs, "gated": m.gated, "format": m.format, "in": m.form[0],
            "weight_bytes": m.nbytes, "bias": a.get("bias") is not None, "add": len(node.inputs) == 2,
        }  # fmt: skip
    if node.kind == "embed":
        known |= {"row_bytes": a["table"].nbytes / a["table"].rows}
    elif node.kind == "rope_store":
        known |= {"inputs": node.inputs[0].width, "layer": a["layer"], "heads": a["heads"], **cache}
    elif node.kind == "attend":
        known |= {"layer": a["layer"], "heads": a["heads"], "window": a["window"], **cache}
    return known
