"""A recording as a trace that chrome://tracing and Perfetto open: the Trace Event Format's JSON.

Threads are rows, spans are boxes that lie inside each other, a step's rows are a curve. `faults` holds a
trace against the format's rules, for tests and for traces from elsewhere.

References: Trace Event Format (Google, 2016), the parts "complete", "metadata", "async" and "counter" events.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trimtab.machine import spans
from trimtab.machine.spans import Recording

_PROCESS = 1
_STAGES = frozenset((*spans.STAGES, spans.REQUEST))


def chrome_trace(recording: Recording) -> bytes:
    """The trace as JSON. Times count from its first event, in microseconds."""
    events = ",\n".join(json.dumps(event, separators=(",", ":")) for event in _events(recording))
    other = json.dumps({"model": recording.facts.get("model", ""), "dropped": recording.dropped})
    return f'{{"traceEvents":[\n{events}\n],"displayTimeUnit":"ms","otherData":{other}}}\n'.encode()


def save(recording: Recording, path: Path) -> Path:
    """Write the trace in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".trace.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(chrome_trace(recording))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def _events(recording: Recording) -> Iterator[dict[str, Any]]:
    model = recording.facts.get("model", "")
    yield _told("process_name", 0, {"name": f"trimtab {model}".strip()})
    lanes = sorted(recording.lanes, key=lambda lane: (lane.worker < 0, lane.worker, lane.name))
    for order, lane in enumerate(lanes):
        yield _told("thread_name", lane.thread, {"name": lane.name})
        yield _told("thread_sort_index", lane.thread, {"sort_index": order})
    zero = min((int(lane.events["begin"].min()) for lane in lanes if len(lane.events)), default=0)
    for lane in lanes:
        for begin, end, number, arg in lane.events.tolist():
            ts = (begin - zero) / 1e3
            if number in spans.NOTES:
                if number == spans.NOTE_SPAN:
                    continue
                yield {
                    "name": "vocabulary tiles reopened" if number == spans.NOTE_OPENED else "wanted rows",
                    "ph": "C", "ts": ts, "pid": _PROCESS,
                    "args": {"value": end if number == spans.NOTE_OPENED else arg},
                }  # fmt: skip
            elif number in _STAGES:
                # Stages of several requests overlap on one thread: each request has a row of its own.
                same = {"name": recording.name_of(number), "cat": "request", "pid": _PROCESS, "id": arg}
                yield {**same, "ph": "b", "ts": ts, "tid": lane.thread}
                yield {**same, "ph": "e", "ts": (end - zero) / 1e3, "tid": lane.thread}
            else:
                yield _box(recording, lane.thread, ts, (end - begin) / 1e3, number, arg)


def _box(recording: Recording, thread: int, ts: float, dur: float, number: int, arg: int) -> dict[str, Any]:
    event = {
        "name": recording.name_of(number), "cat": category(number), "ph": "X", "ts": ts, "dur": max(0.0, dur),
        "pid": _PROCESS, "tid": thread,
    }  # fmt: skip
    if number >= spans.FIRST_OPERATION:
        sizes = recording.operations[number - spans.FIRST_OPERATION]
        event["args"] = {key: value for key, value in sizes.items() if key != "module"}
    elif arg:
        event["args"] = {"rows" if number == spans.RUN else "request": arg}
    return event


def _told(name: str, thread: int, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "ph": "M", "pid": _PROCESS, "tid": thread, "args": dict(args)}


def category(number: int) -> str:
    """What a viewer may filter by."""
    if number >= spans.FIRST_OPERATION:
        return "operation"
    return {spans.BARRIER: "wait", spans.RUN: "step"}.get(
        number, "engine" if number in spans.ENGINE else "server"
    )


def faults(trace: Any) -> list[str]:
    """Where a trace breaks the format's rules; an empty list for a good one."""
    found: list[str] = []
    events = trace.get("traceEvents") if isinstance(trace, Mapping) else trace
    if not isinstance(events, list):
        return ["no list `traceEvents`"]
    boxes: dict[tuple[Any, Any], list[tuple[float, float]]] = {}
    pairs: dict[tuple[Any, Any, Any], int] = {}
    for place, event in enumerate(events):
        if not isinstance(event, Mapping) or not isinstance(event.get("ph"), str):
            found.append(f"event {place}: no phase")
            continue
        phase = event["ph"]
        if not isinstance(event.get("name"), str):
            found.append(f"event {place}: no name")
        if "args" in event and not isinstance(event["args"], Mapping):
            found.append(f"event {place}: `args` is no object")
        if phase == "M":
            continue
        if not isinstance(event.get("ts"), int | float):
            found.append(f"event {place}: no time")
            continue
        if phase == "X":
            if not isinstance(event.get("dur"), int | float) or event["dur"] < 0:
                found.append(f"event {place}: no duration")
                continue
            row = (event.get("pid"), event.get("tid"))
            boxes.setdefault(row, []).append((event["ts"], event["ts"] + event["dur"]))
        elif phase in "be":
            key = (event.get("cat"), event.get("id"), event["name"])
            if event.get("cat") is None or event.get("id") is None:
                found.append(f"event {place}: an async event needs `cat` and `id`")
            pairs[key] = pairs.get(key, 0) + (1 if phase == "b" else -1)
        elif phase == "C":
            values = event.get("args", {}).values()
            if not values or not all(isinstance(value, int | float) for value in values):
                found.append(f"event {place}: a counter without numbers")
        else:
            found.append(f"event {place}: phase {phase!r} is not written here")
    found += [
        f"{key[2]} of {key[1]}: {count:+d} begins without an end" for key, count in pairs.items() if count
    ]
    for row, spans_of_row in boxes.items():
        found += _crossings(row, spans_of_row)
    return found


def _crossings(row: tuple[Any, Any], boxes: list[tuple[float, float]]) -> list[str]:
    """Boxes of one thread lie inside each other or apart; a viewer draws nothing else."""
    open_until: list[float] = []
    for begin, end in sorted(boxes, key=lambda box: (box[0], -box[1])):
        while open_until and open_until[-1] <= begin + 1e-3:
            open_until.pop()
        if open_until and end > open_until[-1] + 1e-3:
            return [f"thread {row[1]}: boxes cross at {begin:.3f}"]
        open_until.append(end)
    return []
