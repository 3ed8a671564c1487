"""The steps of a recording: which operations ran in each, how long, and what each was asked for.

Times are of the thread that starts a step (worker 0), whose operations follow each other without a gap; the
waits at barriers are known of every thread. Steps whose operations are not all there, because the ring was
full or the recording began in their middle, are counted and left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.machine import spans
from trimtab.machine.dissect.work import Shape
from trimtab.machine.spans import Lane, Recording

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Steps:
    """N complete steps of a program with K operations.

    Parameters
    ----------
    begin, end : (N,) of the program's run, nanoseconds
    shapes : of each step
    seconds : (N, K) of each operation, on the thread that starts the step
    waits : worker -> (N, K) seconds that it waited at barriers inside the operation
    left_out : steps that are not complete
    """

    begin: Ints
    end: Ints
    shapes: list[Shape]
    seconds: Floats
    waits: dict[int, Floats]
    left_out: int

    @property
    def run_s(self) -> Floats:
        """(N,) of the whole run, its own preparation included."""
        return np.asarray((self.end - self.begin) * 1e-9, np.float64)

    def of(self, kind: str) -> npt.NDArray[np.bool_]:
        """Which steps are of this kind; see `Shape.kind`."""
        return np.array([shape.kind == kind for shape in self.shapes], bool)


def steps_of(recording: Recording) -> Steps:
    """Read the steps of the one engine that was recorded."""
    count = len(recording.operations)
    main = next((lane for lane in recording.lanes if len(lane.of(spans.RUN))), None)
    if main is None or not count:
        nothing = np.zeros(0, np.int64)
        return Steps(nothing, nothing, [], np.zeros((0, count)), {}, 0)
    runs = main.of(spans.RUN)
    begin, end = runs["begin"].astype(np.int64), runs["end"].astype(np.int64)
    seconds, complete = _operations(main, begin, end, count)
    shapes = _shapes(recording, main, runs)
    kept = np.flatnonzero(complete & np.array([shape is not None for shape in shapes], bool))
    waits = {}
    for lane in recording.lanes:
        if lane is main or lane.worker > 0:
            own, _ = _operations(lane, begin, end, count, lane.of(spans.BARRIER))
            waits[max(0, lane.worker)] = own[kept]
    chosen = [shape for shape in (shapes[index] for index in kept) if shape is not None]
    return Steps(begin[kept], end[kept], chosen, seconds[kept], waits, len(runs) - len(kept))


def _operations(
    lane: Lane, begin: Ints, end: Ints, count: int, inner: Any = None
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(N, K) seconds of a lane's operations, or of `inner` spans inside them; and which steps have all."""
    found = lane.events[lane.events["id"] >= spans.FIRST_OPERATION]
    starts = found["begin"].astype(np.int64)
    # A worker's first operation may begin a moment before the clock that the main thread read: by the end.
    step = np.searchsorted(end, found["end"].astype(np.int64), side="left")
    number = found["id"].astype(np.int64) - spans.FIRST_OPERATION
    inside = step < len(end)
    table, seen = np.zeros((len(end), count)), np.zeros((len(end), count), np.int64)
    np.add.at(seen, (step[inside], number[inside]), 1)
    if inner is None:
        lasting = (found["end"].astype(np.int64) - starts) * 1e-9
        np.add.at(table, (step[inside], number[inside]), lasting[inside])
    elif len(found):
        # Spans of one thread lie inside each other: the last operation that began before holds it.
        holder = np.searchsorted(starts, inner["begin"].astype(np.int64), side="right") - 1
        held = holder >= 0
        held[held] &= inner["end"][held].astype(np.int64) <= found["end"][holder[held]].astype(np.int64)
        held[held] &= inside[holder[held]]
        lasting = (inner["end"].astype(np.int64) - inner["begin"].astype(np.int64)) * 1e-9
        np.add.at(table, (step[holder[held]], number[holder[held]]), lasting[held])
    return table, (seen == 1).all(axis=1)


def _shapes(recording: Recording, main: Lane, runs: Any) -> list[Shape | None]:
    """What each run was asked for; notes carry the same begin as their run."""
    parts: dict[int, list[tuple[int, int]]] = {}
    for begin, first, _, rows in main.of(spans.NOTE_SPAN).tolist():
        parts.setdefault(begin, []).append((rows, first))
    asked = {begin: (wanted, sketched) for begin, sketched, _, wanted in main.of(spans.NOTE_STEP).tolist()}
    opened = np.zeros(len(runs), np.int64)
    for _, notes in recording.spans(spans.NOTE_OPENED):
        step = np.searchsorted(runs["end"], notes["begin"], side="left")
        inside = step < len(runs)
        np.add.at(opened, step[inside], notes["end"][inside].astype(np.int64))
    shapes: list[Shape | None] = []
    for place, (begin, _, _, rows) in enumerate(runs.tolist()):
        if begin not in asked or sum(part[0] for part in parts.get(begin, ())) != rows:
            shapes.append(None)
            continue
        wanted, sketched = asked[begin]
        shapes.append(Shape(rows, wanted, tuple(parts[begin]), bool(sketched), int(opened[place])))
    return shapes
