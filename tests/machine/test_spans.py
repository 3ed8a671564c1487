"""Recordings: what is saved is what is read, and nothing else is read at all."""

from __future__ import annotations

import contextlib
import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import OPERATIONS, recording

from trimtab.errors import BadFile, UsageError
from trimtab.machine import spans
from trimtab.machine.spans import Lane, Recording

EVENTS = st.lists(
    st.tuples(
        st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 1023 + len(OPERATIONS)),
        st.integers(0, 2**32 - 1),
    ),
    max_size=20,
)  # fmt: skip


@given(st.lists(st.tuples(st.text(max_size=8), st.integers(-1, 4), EVENTS, st.integers(0, 9)), max_size=4))
def test_a_saved_recording_is_the_same(lanes: list[Any]) -> None:
    made = Recording(
        [
            Lane(name, number, worker, np.array(events, spans.EVENT), dropped)
            for number, (name, worker, events, dropped) in enumerate(lanes)
        ],
        OPERATIONS,
        {"model": "m", "requests": [{"number": 1}]},
    )
    read = Recording.from_bytes(made.to_bytes())
    assert list(read.operations) == list(made.operations)
    assert read.facts == made.facts
    assert read.dropped == sum(lane[3] for lane in lanes)
    for one, other in zip(made.lanes, read.lanes, strict=True):
        assert (one.name, one.thread, one.worker) == (other.name, other.thread, other.worker)
        assert np.array_equal(one.events, other.events)


def test_a_file_is_read_and_named_when_it_is_none(tmp_path: Path) -> None:
    made = recording([{"times": [5] * 7, "parts": [(1, 3)], "wanted": 1}])
    path = made.save(tmp_path / "deep" / "a.recording")
    assert [each.name for each in path.parent.iterdir()] == ["a.recording"]
    assert Recording.load(path).facts == {}
    path.write_bytes(b"no zip")
    with pytest.raises(BadFile, match=r"a\.recording"):
        Recording.load(path)
    with pytest.raises(BadFile):
        Recording.load(tmp_path / "not there")


def zipped(head: Any, **entries: bytes) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("recording.json", head if isinstance(head, str) else json.dumps(head))
        for name, content in entries.items():
            archive.writestr(name.strip("_") + ".events", content)
    return out.getvalue()


GOOD = {
    "schema": spans.SCHEMA, "operations": [], "facts": {},
    "lanes": [{"name": "a", "thread": 1, "worker": 0, "dropped": 0}],
}  # fmt: skip


def test_wrong_content_is_refused() -> None:
    event = np.array([(1, 2, 1024, 0)], spans.EVENT).tobytes()
    plain = np.array([(1, 2, 16, 0)], spans.EVENT).tobytes()
    assert len(Recording.from_bytes(zipped(GOOD, _0=plain)).lanes) == 1
    for content in (
        b"", b"PK", zipped("{"), zipped([]), zipped({}), zipped(GOOD), zipped(GOOD, _0=b"123"),
        zipped(GOOD, _0=event),  # an operation that is not there
        zipped({**GOOD, "schema": "recording/9"}, _0=plain), zipped({**GOOD, "facts": 3}, _0=plain),
        zipped({**GOOD, "operations": [{}]}, _0=plain), zipped({**GOOD, "operations": [1]}, _0=plain),
        zipped({**GOOD, "lanes": [{}]}, _0=plain), zipped("[" * 100_000),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="no recording"):
            Recording.from_bytes(content)


@given(st.data())
def test_damaged_files_never_break_the_reader(data: Any) -> None:
    content = bytearray(recording([{"times": [5] * 7, "parts": [(1, 3)], "wanted": 1}]).to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    with contextlib.suppress(UsageError):
        Recording.from_bytes(bytes(content[:cut] if data.draw(st.booleans()) else content))
