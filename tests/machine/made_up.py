"""Recordings whose every time is known, because they are written down here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trimtab.machine import spans
from trimtab.machine.roofline import Ceilings
from trimtab.machine.spans import Lane, Recording

MICRO = 1000

PRODUCT = {
    "width": 64, "out": "plain", "outputs": 64, "inputs": 32, "gated": False, "format": "q4", "in": "grouped",
    "weight_bytes": 1152, "bias": False, "add": True,
}  # fmt: skip
CACHE = {"kv_heads": 1, "head_dim": 16, "kv_type": "bf16", "position_bytes": 64.0, "layer": 0, "heads": 2}
OPERATIONS: tuple[dict[str, Any], ...] = (
    {"kind": "embed", "module": "embed", "width": 32, "out": "plain", "row_bytes": 34.0},
    {"kind": "norm", "module": "layers.0.attn.norm", "width": 32, "out": "grouped"},
    {"kind": "multiply", "module": "layers.0.attn.qkv", **PRODUCT, "add": False},
    {"kind": "attend", "module": "layers.0.attn.attend", "width": 32, "out": "plain", "window": 0, **CACHE},
    {"kind": "pack", "module": "layers.0.attn.attend", "width": 32, "out": "grouped"},
    {"kind": "multiply", "module": "layers.0.mlp.down", **PRODUCT},
    {
        "kind": "head", "module": "head", "outputs": 128, "inputs": 32, "gated": False, "format": "q8",
        "in": "grouped", "weight_bytes": 4352, "bias": False, "add": False, "sketch_bytes": 2304,
    },
)  # fmt: skip

CEILINGS = Ceilings(
    2, {("int8", "register"): 1e11, ("bf16", "register"): 5e10, ("float32", "register"): 2.5e10},
    {"read": [(1.0, 2e10)]}, [("L1", 65536.0)], 1e-6,
)  # fmt: skip


def lane(name: str, worker: int, rows: Sequence[Sequence[int]], dropped: int = 0) -> Lane:
    """Rows of (begin, end, id, arg)."""
    events = np.array([tuple(row) for row in sorted(rows, key=lambda row: row[1])], spans.EVENT)
    return Lane(name, 100 + worker, worker, events, dropped)


def step_events(
    begin: int, times: Sequence[int], parts: Sequence[tuple[int, int]], wanted: int, waits: int = 0,
    sketched: int = 0, opened: int = 0, around: int = 10,
) -> tuple[list[tuple[int, int, int, int]], int]:  # fmt: skip
    """One run whose operations take `times` nanoseconds, and when it ends; it waits at the end of each."""
    rows: list[tuple[int, int, int, int]] = []
    at = begin + around
    for number, lasts in enumerate(times):
        if waits:
            rows.append((at + lasts - waits, at + lasts, spans.BARRIER, 0))
        rows.append((at, at + lasts, spans.FIRST_OPERATION + number, 0))
        at += lasts
    end = at + around
    rows += [(begin, first, spans.NOTE_SPAN, count) for count, first in parts]
    rows.append((begin, sketched, spans.NOTE_STEP, wanted))
    if opened:
        rows.append((begin + around, opened, spans.NOTE_OPENED, 0))
    rows.append((begin, end, spans.RUN, sum(count for count, _ in parts)))
    return rows, end


def recording(
    steps: Sequence[Mapping[str, Any]], *, host: int = 100, facts: Mapping[str, Any] | None = None
) -> Recording:
    """An engine that does these steps, with `host` nanoseconds in each of its other parts."""
    rows: list[tuple[int, int, int, int]] = []
    at = 1_000_000
    for step in steps:
        for part in (spans.SCHEDULE, spans.ASSEMBLE):
            rows.append((at, at + host, part, 0))
            at += host
        inner, end = step_events(at + 50, **step)
        rows += inner
        rows.append((at, end + 50, spans.STEP, 0))
        at = end + 50
        for part in (spans.COMMIT, spans.WAKE):
            rows.append((at, at + host, part, 0))
            at += host
    return Recording([lane("engine", 0, rows)], OPERATIONS, facts or {})
