"""What a recording is: spans by thread, the names behind their numbers, and its file.

The recorder (native/recorder.h) writes numbers; this module owns what they mean, for the engine's loop, the
server's stages and a program's operations alike. A recording made elsewhere (torch's profiler) fits in with
operations of its own and the same spans. Nothing here knows how a span is drawn, counted or judged.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from trimtab.errors import BadFile, UsageError

SCHEMA = "recording/1"
EVENT = [("begin", "<i8"), ("end", "<i8"), ("id", "<u4"), ("arg", "<u4")]
"""One event: nanoseconds of the monotonic clock; of a note `end` is its value."""

RUN, BARRIER, NOTE_STEP, NOTE_SPAN, NOTE_OPENED = 1, 2, 3, 4, 5
SCHEDULE, ASSEMBLE, STEP, COMMIT, WAKE, IDLE, INBOX = 16, 17, 18, 19, 20, 21, 22
PARSE, TEMPLATE, TOKENIZE, QUEUE, PREFILL, DECODE, DELIVER = 32, 33, 34, 35, 36, 37, 38
DETOKENIZE, WRITE, REQUEST, ARRIVE, SUBMIT = 39, 40, 41, 42, 43
FIRST_OPERATION = 1024

NAMES = {
    RUN: "run", BARRIER: "wait at barrier", NOTE_STEP: "step", NOTE_SPAN: "span", NOTE_OPENED: "opened",
    SCHEDULE: "schedule", ASSEMBLE: "assemble", STEP: "step", COMMIT: "commit", WAKE: "wake", IDLE: "idle",
    INBOX: "inbox", PARSE: "parse", TEMPLATE: "template", TOKENIZE: "tokenize", QUEUE: "queue",
    PREFILL: "prefill", DECODE: "decode", DELIVER: "deliver", DETOKENIZE: "detokenize", WRITE: "write",
    REQUEST: "request", ARRIVE: "arrive", SUBMIT: "submit",
}  # fmt: skip
NOTES = frozenset({NOTE_STEP, NOTE_SPAN, NOTE_OPENED})
ENGINE = (INBOX, SCHEDULE, ASSEMBLE, STEP, COMMIT, WAKE, IDLE)
"""Spans of the engine's loop: they follow each other and leave nothing out."""
STAGES = (ARRIVE, PARSE, TEMPLATE, TOKENIZE, SUBMIT, QUEUE, PREFILL, DECODE, DELIVER)
"""Spans of one request, whose number is their argument: they follow each other in this order."""
MOST_BYTES = 2**30
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True, slots=True)
class Lane:
    """What one thread wrote, in the order of the spans' ends.

    Parameters
    ----------
    worker : its number in the thread pool; 0 is the thread that starts a step, -1 none of the pool's
    events : records of `EVENT`
    dropped : events that found the ring full
    """

    name: str
    thread: int
    worker: int
    events: Any
    dropped: int = 0

    def of(self, number: int) -> Any:
        """Its events of one id."""
        return self.events[self.events["id"] == number]


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything that was recorded between a start and a stop.

    Parameters
    ----------
    operations : of the program, in its order: `kind`, `module` and sizes (see `trimtab.machine.dissect.work`)
    facts : what was recorded: model, threads, formats, environment, memory, requests by number
    """

    lanes: Sequence[Lane]
    operations: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def name_of(self, number: int) -> str:
        """What a person calls the events of this id."""
        if number >= FIRST_OPERATION:
            operation = self.operations[number - FIRST_OPERATION]
            return f"{operation['module']} {operation['kind']}"
        return NAMES.get(number, f"span {number}")

    def spans(self, number: int) -> Iterator[tuple[Lane, Any]]:
        """(lane, its events) of one id, where there are any."""
        for lane in self.lanes:
            if len(found := lane.of(number)):
                yield lane, found

    @property
    def dropped(self) -> int:
        return sum(lane.dropped for lane in self.lanes)

    def save(self, path: Path) -> Path:
        """Write it in one piece, as a zip of arrays and one JSON header."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".recording.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.to_bytes())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return path

    def to_bytes(self) -> bytes:
        """The same as a file's content."""
        head = {
            "schema": SCHEMA, "operations": [dict(each) for each in self.operations],
            "facts": dict(self.facts),
            "lanes": [
                {"name": lane.name, "thread": lane.thread, "worker": lane.worker, "dropped": lane.dropped}
                for lane in self.lanes
            ],
        }  # fmt: skip
        out = BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("recording.json", json.dumps(head, allow_nan=False))
            for number, lane in enumerate(self.lanes):
                archive.writestr(f"{number}.events", lane.events.tobytes())
        return out.getvalue()

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a recording.

        Raises
        ------
        BadFile : it cannot be read, or is no recording
        """
        try:
            return cls.from_bytes(path.read_bytes())
        except (OSError, UsageError) as error:
            raise BadFile(path, f"no readable recording: {error}") from error

    @classmethod
    def from_bytes(cls, content: bytes) -> Recording:
        """Read a file's content.

        Raises
        ------
        UsageError : it is no recording
        """
        import numpy as np

        try:
            with zipfile.ZipFile(BytesIO(content)) as archive:
                if sum(info.file_size for info in archive.infolist()) > MOST_BYTES:
                    raise ValueError("too large")
                if any(info.compress_type not in _PACKED for info in archive.infolist()):
                    raise ValueError("packed in a way that is not written here")
                head = json.loads(archive.read("recording.json"))
                if head["schema"] != SCHEMA:
                    raise ValueError(f"its schema is {head['schema']!r}; this version reads {SCHEMA!r}")
                operations = [dict(each) for each in head["operations"]]
                if any(not isinstance(each.get("module"), str) for each in operations):
                    raise ValueError("an operation without its module")
                lanes = [
                    Lane(
                        str(each["name"]), int(each["thread"]), int(each["worker"]),
                        np.frombuffer(archive.read(f"{number}.events"), EVENT), int(each["dropped"]),
                    )
                    for number, each in enumerate(head["lanes"])
                ]  # fmt: skip
            known = FIRST_OPERATION + len(operations)
            if any(len(lane.events) and int(lane.events["id"].max()) >= known for lane in lanes):
                raise ValueError("an event of an operation that is not there")
            return cls(lanes, operations, dict(head["facts"]))
        except (
            zipfile.BadZipFile, zlib.error, struct.error, ValueError, KeyError, TypeError, AttributeError,
            EOFError, OSError, NotImplementedError, RecursionError, zipfile.LargeZipFile, RuntimeError,
        ) as error:  # fmt: skip
            raise UsageError(
                f"this is no recording: {error}", "make one: `trimtab measure dissect serve`"
            ) from error


def take(
    recorder: Any, names: Mapping[int, str], operations: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, Any] | None = None,
) -> Recording:  # fmt: skip
    """Everything a recorder holds, which is empty afterwards.

    Parameters
    ----------
    recorder : `_native.Recorder`
    names : of Python's threads, by the number that the system has for each
    """
    import numpy as np

    lanes = []
    for thread, worker, dropped, content in recorder.take():
        if not content and not dropped:
            continue
        name = names.get(thread) or (f"worker {worker}" if worker >= 0 else f"thread {thread}")
        lanes.append(Lane(name, thread, worker, np.frombuffer(content, EVENT), dropped))
    return Recording(lanes, operations, facts or {})
