"""A stage whose work is done in processes of its own: items go out as messages, answers come back.

The owner's side knows which items are out; when a process ends that should not have, they fail, and
everything is made anew, because a line between processes may have been left in any state. The messages are
defined here and nowhere else.
"""

from __future__ import annotations

import json
import multiprocessing
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from trimtab.errors import Busy, TrimtabError
from trimtab.server.pipeline.buffers import Array
from trimtab.server.pipeline.handover import hand_over
from trimtab.server.pipeline.handover.base import HandOver
from trimtab.server.pipeline.spec import StageSpec
from trimtab.server.pipeline.work import Item

Back = Callable[[str, Sequence[Item], list[Any], BaseException | None], None]

_HEAD = struct.Struct("<QIIB")  # id, height, width, jpeg or raw
_RAW, _JPEG = 0, 1
_LONGEST_STRIP = 48 * 2304 * 3 + 65_536
_ANSWER_BYTES = 1 << 18
_LOOK_S = 0.25
_SEND_S = 5.0
_START_S = 120.0
_QUALITY = 95


class WorkerEnded(TrimtabError):
    """A process that ended while it had work."""

    http_status = 503


class Remote:
    """The owner's side of one stage.

    Parameters
    ----------
    back : told of items that came back, or failed
    """

    def __init__(self, spec: StageSpec, workers: int, threads: int, back: Back) -> None:
        self._spec, self._workers, self._threads, self._back = spec, workers, threads, back
        self._out: dict[int, Item] = {}
        self._next = 0
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._closed = False
        self._start()
        self._listener = threading.Thread(target=self._listen, name=f"{spec.title}-back", daemon=True)
        self._listener.start()

    @property
    def open(self) -> int:
        """Items that are out."""
        return len(self._out)

    def send(self, item: Item) -> None:
        """Hand one over.

        Raises
        ------
        Busy : the processes are too far behind
        """
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._out[number] = item
        message = packed(number, item.pixels, self._spec.payload)
        with self._sending:  # an end belongs to one thread at a time
            sent = not self._closed and self._to.put(message, _SEND_S)
        if not sent:
            with self._lock:
                self._out.pop(number, None)
            raise Busy(f"the stage `{self._spec.title}` is too far behind", "ask again later")

    def close(self) -> None:
        """Stop the processes; items that are out fail."""
        self._closed = True
        self._listener.join()
        with self._sending:
            self._stop()
        self._give_up(Busy("the pipeline is shutting down", "ask again in a moment"))

    def _start(self) -> None:
        kind = hand_over(self._spec.hand_over)
        self._to = kind.make(self._spec.queue, _LONGEST_STRIP)
        self._fro = kind.make(self._spec.queue, _ANSWER_BYTES)
        context = multiprocessing.get_context("spawn")
        self._ready = context.Semaphore(0)
        self._processes = [
            context.Process(
                target=work, name=f"{self._spec.title}-{number}", daemon=True,
                args=(self._spec.hand_over, self._to.ticket, self._fro.ticket,
                      self._spec.model_dump_json(), self._threads, self._ready),
            )
            for number in range(self._workers)
        ]  # fmt: skip
        try:
            with _no_main():
                for process in self._processes:
                    process.start()
            self._wait_for_all()
        except BaseException:
            self._stop()
            raise

    def _wait_for_all(self) -> None:
        for _ in self._processes:
            until = time.monotonic() + _START_S
            while not self._ready.acquire(timeout=_LOOK_S):
                if time.monotonic() > until or any(not each.is_alive() for each in self._processes):
                    raise WorkerEnded(
                        f"a process of the stage `{self._spec.title}` did not start",
                        "its packages may be missing: try `worker: thread`",
                    )

    def _stop(self) -> None:
        started = [process for process in self._processes if process.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join()
            process.close()
        self._to.close()
        self._fro.close()

    def _listen(self) -> None:
        while not self._closed:
            answer = self._fro.take(_LOOK_S)
            if answer is not None:
                self._answered(json.loads(answer))
            elif any(not process.is_alive() for process in self._processes):
                with self._sending:
                    self._stop()
                    self._give_up(WorkerEnded(f"a process of the stage `{self._spec.title}` ended"))
                    self._start()

    def _answered(self, answer: dict[str, Any]) -> None:
        found: list[Item] = []
        for number, turned, turn_score, text, score in answer["items"]:
            with self._lock:
                item = self._out.pop(number, None)
            if item is None:
                continue
            if turned and not item.turned:
                item.pixels = np.ascontiguousarray(item.pixels[::-1, ::-1])
            item.turned = turned or item.turned
            item.turn_score, item.text, item.score = turn_score or item.turn_score, text, score
            found.append(item)
        error = TrimtabError(answer["error"]) if answer["error"] else None
        if found:
            self._back(self._spec.title, found, [tuple(span) for span in answer["spans"]], error)

    def _give_up(self, error: TrimtabError) -> None:
        with self._lock:
            lost, self._out = list(self._out.values()), {}
        if lost:
            self._back(self._spec.title, lost, [], error)


@contextmanager
def _no_main() -> Iterator[None]:
    """New processes need nothing of the program that this one runs, which may not be made to be imported."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def packed(number: int, pixels: Array, payload: str) -> bytes:
    """An item as a message."""
    height, width = pixels.shape[:2]
    if payload == "jpeg":
        import simplejpeg

        body = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels), quality=_QUALITY, colorspace="RGB", colorsubsampling="444"
        )
        return _HEAD.pack(number, height, width, _JPEG) + bytes(body)
    return _HEAD.pack(number, height, width, _RAW) + np.ascontiguousarray(pixels).tobytes()


def unpacked(message: bytes) -> tuple[int, Array]:
    """A message as an item's number and pixels."""
    number, height, width, kind = _HEAD.unpack_from(message)
    body = memoryview(message)[_HEAD.size :]
    if kind == _JPEG:
        import simplejpeg

        found: Array = simplejpeg.decode_jpeg(bytes(body), colorspace="RGB")
        return number, found
    return number, np.frombuffer(body, np.uint8).reshape(height, width, 3)


def work(name: str, take_from: Any, answer_to: Any, spec_json: str, threads: int, ready: Any) -> None:
    """What a process of the stage does until it is stopped."""
    import os
    import signal

    from trimtab.server.pipeline.batcher import Batcher
    from trimtab.server.pipeline.buffers import Buffers
    from trimtab.server.pipeline.ops import operation

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, who ends this process
    owner = os.getppid()
    spec = StageSpec.model_validate_json(spec_json)
    kind = hand_over(name)
    incoming: HandOver = kind.open(take_from)
    outgoing: HandOver = kind.open(answer_to)
    op = operation(spec.op)(spec.settings, threads, Buffers())
    waiting: Batcher[Item] = Batcher(spec.batch.most, spec.batch.delay_ms / 1e3)
    ready.release()
    while os.getppid() == owner:  # an owner that was killed stops nobody
        wait = min(_LOOK_S, max(0.0, waiting.ripe_at() - time.monotonic()))
        message = incoming.take(wait)
        # What one process holds back another one could be doing.
        while message is not None:
            number, pixels = unpacked(message)
            item = Item(None, number, pixels)  # type: ignore[arg-type]
            waiting.put(item, op.key(item, spec.batch.bucket), time.monotonic())
            message = incoming.take(0.0) if len(waiting) < spec.batch.most else None
        if batch := waiting.take(time.monotonic()):
            outgoing.put(_answer(op, batch), _SEND_S)


def _answer(op: Any, batch: list[Item]) -> bytes:
    from trimtab.server.pipeline.ops.base import Laps

    laps, error = Laps(), ""
    try:
        op.run(batch, laps)
    # Whatever it is, the owner's requests have to hear of it.
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"[:300]
    rows = [[item.index, item.turned, item.turn_score, item.text, item.score] for item in batch]
    return json.dumps({"items": rows, "spans": laps.spans, "error": error}).encode()
