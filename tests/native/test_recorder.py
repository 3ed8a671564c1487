"""The recorder: what is written comes out once, in order and in real time; off and full it behaves."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
from attention_case import Attention, AttentionProgram, no_rope, table_of
from hypothesis import given
from hypothesis import strategies as st

from trimtab import _native
from trimtab.machine import spans
from trimtab.machine.dissect.steps import steps_of

CASE = Attention(4, 2, 32, no_rope(32), kv_type="bf16")


def events(recorder: Any) -> list[tuple[int, int, int, int]]:
    """Of all threads, as (begin, end, id, arg)."""
    return [event for lane in spans.take(recorder, {}).lanes for event in lane.events.tolist()]


def test_the_numbers_mean_the_same_on_both_sides() -> None:
    known = (spans.RUN, spans.BARRIER, spans.NOTE_STEP, spans.NOTE_SPAN, spans.NOTE_OPENED)
    assert (*known, spans.FIRST_OPERATION) == _native.EVENT_IDS
    assert np.dtype(spans.EVENT).itemsize == 24
    assert _native.RECORDER


def test_off_it_records_nothing() -> None:
    recorder = _native.Recorder()
    began = recorder.begin()
    recorder.end(spans.STEP, began)
    recorder.add(spans.PARSE, 1.0, 2.0, 3)
    assert began == 0
    assert not recorder.on
    assert events(recorder) == []
    recorder.start()
    recorder.end(spans.STEP, began)  # begun before: nobody knows when
    assert events(recorder) == []


def test_a_span_has_the_time_of_the_monotonic_clock() -> None:
    recorder = _native.Recorder()
    recorder.start()
    before = time.monotonic_ns()
    began = recorder.begin()
    time.sleep(0.03)
    recorder.end(spans.STEP, began, 7)
    after = time.monotonic_ns()
    recorder.add(spans.PARSE, before * 1e-9, after * 1e-9, 2**32 - 1)
    recorder.stop()
    (step, parse) = events(recorder)
    slack = 20_000  # the two clocks are laid over each other, to some microseconds
    assert before - slack <= step[0] <= step[1] <= after + slack
    assert step[1] - step[0] >= 29_000_000
    assert step[2:] == (spans.STEP, 7)
    assert parse[2:] == (spans.PARSE, 2**32 - 1)
    assert abs(parse[0] - before) < 1000
    assert abs(parse[1] - after) < 1000


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(16, 24))
def test_every_event_comes_out_once_in_order_or_is_counted(parts: list[int], room: int) -> None:
    """Written and taken in turns: a ring that goes round, against a plain list."""
    recorder = _native.Recorder(room)
    recorder.start()
    number = 0
    for count in parts:
        sent = list(range(number, number + count))
        number += count
        for each in sent:
            recorder.add(spans.PARSE, 0.0, 0.0, each)
        lanes = spans.take(recorder, {}).lanes
        got = [arg for lane in lanes for arg in lane.events["arg"].tolist()]
        assert got == sent[:room]
        assert sum(lane.dropped for lane in lanes) == max(0, count - room)


def test_threads_do_not_meet() -> None:
    recorder = _native.Recorder(4096)
    recorder.start()
    barrier = threading.Barrier(4)

    def write(mark: int) -> None:
        barrier.wait()
        for each in range(1000):
            recorder.add(spans.PARSE, 0.0, 0.0, mark * 10_000 + each)

    threads = [threading.Thread(target=write, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lanes = spans.take(recorder, {}).lanes
    found = sorted(lane.events["arg"].tolist() for lane in lanes)
    assert found == [[mark * 10_000 + each for each in range(1000)] for mark in range(4)]


def test_a_start_forgets_what_was_before_and_memory_goes_back() -> None:
    recorder = _native.Recorder(1 << 16)
    recorder.start()
    for _ in range(50_000):
        recorder.add(spans.PARSE, 0.0, 0.0)
    assert recorder.resident_bytes > 1_000_000
    recorder.stop()
    recorder.start()
    recorder.add(spans.PARSE, 0.0, 0.0, 5)
    recorder.stop()
    assert [event[3] for event in events(recorder)] == [5]
    assert recorder.resident_bytes == 0


def program(threads: int) -> tuple[AttentionProgram, Any]:
    made = AttentionProgram(CASE, table_of(CASE), "", threads)
    recorder = _native.Recorder()
    made.program.record_into(made.pool, recorder)
    return made, recorder


def test_a_program_notes_every_operation_of_every_thread() -> None:
    made, recorder = program(2)
    made.run([(list(range(14)), 0, [4, 2])])
    assert events(recorder) == []
    recorder.start()
    made.run([(list(range(20, 29)), 0, [3]), ([1, 2], 14, [4, 2])])
    made.run([([7], 16, [4, 2])])
    recorder.stop()
    recording = spans.take(recorder, {}, made.operations)
    assert [each["kind"] for each in made.operations] == ["embed", "angles", "rope_store", "attend", "head"]
    steps = steps_of(recording)
    assert steps.left_out == 0
    assert [(shape.rows, shape.wanted, list(shape.spans)) for shape in steps.shapes] == [
        (11, 11, [(9, 0), (2, 14)]), (1, 1, [(1, 16)]),
    ]  # fmt: skip
    assert (steps.seconds > 0).all()
    assert (steps.seconds.sum(axis=1) <= steps.run_s).all()
    assert set(steps.waits) <= {0, 1}
    for waits in steps.waits.values():
        assert (waits >= 0).all()
    for lane in recording.lanes:
        operations = lane.events[lane.events["id"] >= spans.FIRST_OPERATION]
        assert (operations["begin"][1:] >= operations["end"][:-1]).all()


def test_results_are_the_same_while_it_records() -> None:
    made, recorder = program(2)
    batch = [(list(range(14)), 0, [4, 2]), ([5, 6, 7], 0, [3])]
    plain = made.run(batch)
    recorder.start()
    assert np.array_equal(made.run(batch), plain)
