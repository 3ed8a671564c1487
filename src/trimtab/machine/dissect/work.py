"""The arithmetic and the bytes of an operation, from its sizes and what a step asked of it.

Counted is what any program would have to do: each weight and each cached position that a step needs is read
once, each activation written and read once. What a kernel does beyond that shows as distance from the bound.
An operation is a multiply or an add; a function such as an exponential counts as `FUNCTION_OPS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.errors import UnknownName

FUNCTION_OPS = 10
"""Of an exponential, a sine or a logarithm by polynomial."""
PAGE_TOKENS = 16
TILE_ROWS = 16
_GROUP = 32
_FORM_BYTES = {"plain": 4.0, "grouped": (_GROUP + 8) / _GROUP, "token": 1.0, "wide": 4.0, "half": 2.0}
_UNITS = {"grouped": "int8", "token": "int8", "wide": "float32", "half": "bf16"}


@dataclass(frozen=True, slots=True)
class Shape:
    """What one step asked for.

    Parameters
    ----------
    rows : tokens of the step
    wanted : rows whose next token was chosen
    spans : (rows, first position) of each sequence's part
    sketched : the tokens were found by the sketch of the vocabulary projection
    opened : tiles of 16 tokens whose exact logits were computed behind the sketch
    """

    rows: int
    wanted: int
    spans: Sequence[tuple[int, int]]
    sketched: bool = False
    opened: int = 0

    def attended(self, window: int = 0) -> int:
        """(query, position) pairs of causal attention; with a window, at most so many for each query."""
        total = 0
        for rows, first in self.spans:
            last = first + rows
            if not window or last <= window:
                total += rows * (first + last + 1) // 2
                continue
            short = max(0, window - first)  # queries that see everything before them
            total += short * (2 * first + short + 1) // 2 + (rows - short) * window
        return total

    def positions(self, window: int = 0) -> int:
        """Cached positions that are read, in whole pages."""
        total = 0
        for rows, first in self.spans:
            begin = max(0, first - window + 1) // PAGE_TOKENS if window else 0
            total += (-(-(first + rows) // PAGE_TOKENS) - begin) * PAGE_TOKENS
        return total

    @property
    def kind(self) -> str:
        """`decode`: every row's next token is wanted; `prefill`: parts of prompts only; else `mixed`."""
        if self.wanted == self.rows:
            return "decode"
        return "mixed" if any(rows == 1 for rows, _ in self.spans) else "prefill"


@dataclass(frozen=True, slots=True)
class Work:
    """Work of one operation.

    Parameters
    ----------
    ops : operations by unit: int8, bf16, float32
    streamed_bytes : of weights and cache, which come again only with the next step
    local_bytes : of activations, which were written just before
    regions : times that all threads meet
    rows : of a matrix product; None where it is none
    format : of that product's weights
    """

    ops: Mapping[str, float] = field(default_factory=dict)
    streamed_bytes: float = 0.0
    local_bytes: float = 0.0
    regions: int = 1
    rows: int | None = None
    format: str = ""

    @property
    def total_ops(self) -> float:
        return sum(self.ops.values())

    @property
    def total_bytes(self) -> float:
        return self.streamed_bytes + self.local_bytes


def work(operation: Mapping[str, Any], shape: Shape) -> Work:
    """Work of one operation in one step.

    Raises
    ------
    UnknownName : no operation is called that
    """
    kind = operation["kind"]
    count = _COUNTS.get(kind)
    if count is None:
        raise UnknownName(f"no operation {kind!r}", f"there is {', '.join(_COUNTS)}")
    return count(operation, shape)


def _embed(o: Mapping[str, Any], s: Shape) -> Work:
    return Work({"float32": s.rows * o["width"]}, s.rows * o["row_bytes"], s.rows * o["width"] * 4.0)


def _angles(o: Mapping[str, Any], s: Shape) -> Work:
    return Work({"float32": s.rows * o["width"] * FUNCTION_OPS}, 0, s.rows * o["width"] * 4.0)


def _norm(o: Mapping[str, Any], s: Shape) -> Work:
    values = s.rows * o["width"]
    return Work({"float32": 4.0 * values}, 0, values * (4 + _FORM_BYTES[o["out"]]) + 4.0 * o["width"])


def _pack(o: Mapping[str, Any], s: Shape) -> Work:
    values = s.rows * o["width"]
    return Work({"float32": 3.0 * values}, 0, values * (4 + _FORM_BYTES[o["out"]]))


def _add(o: Mapping[str, Any], s: Shape) -> Work:
    return Work({"float32": float(s.rows * o["width"])}, 0, 12.0 * s.rows * o["width"])


def _multiply(o: Mapping[str, Any], s: Shape) -> Work:
    products = 2.0 * s.rows * o["inputs"] * o["outputs"] * (2 if o["gated"] else 1)
    out = s.rows * o["outputs"]
    extra = out * (bool(o["bias"]) + bool(o["add"])) + (out * (FUNCTION_OPS + 2) if o["gated"] else 0)
    ops = {_UNITS[o["in"]]: products}
    if extra:
        ops["float32"] = ops.get("float32", 0.0) + extra
    local = s.rows * o["inputs"] * _FORM_BYTES[o["in"]] + out * _FORM_BYTES[o["out"]]
    return Work(ops, o["weight_bytes"], local + (4.0 * out if o["add"] else 0.0), 1, s.rows, o["format"])


def _rope_store(o: Mapping[str, Any], s: Shape) -> Work:
    values = s.rows * o["inputs"]
    stored = s.rows * o["position_bytes"]
    return Work({"float32": 3.0 * values}, stored, 4.0 * (values + s.rows * o["width"]))


def _attend(o: Mapping[str, Any], s: Shape) -> Work:
    pairs = s.attended(o["window"]) * o["heads"]
    products = 2.0 * pairs * o["head_dim"]  # of queries and keys, and once more of weights and values
    ops: dict[str, float] = {"float32": pairs * (FUNCTION_OPS + 2.0)}
    keys, values = {"bf16": ("bf16", "bf16"), "int8": ("int8", "float32")}.get(
        o["kv_type"], ("float32", "float32")
    )
    for unit in (keys, values):
        ops[unit] = ops.get(unit, 0.0) + products
    return Work(ops, s.positions(o["window"]) * o["position_bytes"], 8.0 * s.rows * o["width"])


def _head(o: Mapping[str, Any], s: Shape) -> Work:
    if not s.wanted:
        return Work(regions=0)
    logits = float(s.wanted * o["outputs"])
    products = 2.0 * logits * o["inputs"]
    normed = s.wanted * o["inputs"]
    ops = {_UNITS[o["in"]]: products, "float32": 7.0 * normed}
    local = normed * (4 + 2 * _FORM_BYTES[o["in"]]) + 4.0 * logits  # written
    if s.sketched and o["sketch_bytes"]:
        tile_bytes = o["weight_bytes"] / max(1, o["outputs"] / TILE_ROWS)
        ops[_UNITS[o["in"]]] += 2.0 * s.opened * TILE_ROWS * o["inputs"] * s.wanted
        ops["float32"] += 3.0 * logits  # bounds of each
        return Work(
            ops, o["sketch_bytes"] + s.opened * tile_bytes, local + 8.0 * logits, 4, s.wanted, o["format"]
        )
    ops["float32"] += (FUNCTION_OPS + 2.0) * logits  # highest, and the sum of exponentials
    return Work(ops, o["weight_bytes"], local + 8.0 * logits, 3, s.wanted, o["format"])


_COUNTS = {
    "embed": _embed, "angles": _angles, "norm": _norm, "pack": _pack, "add": _add, "multiply": _multiply,
    "gated": _multiply, "rope_store": _rope_store, "attend": _attend, "head": _head,
}  # fmt: skip
