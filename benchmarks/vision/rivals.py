"""Starts what the pipeline is compared with: services in processes, and loops in this one."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from trimtab import _native
from trimtab.server.pipeline.buffers import Buffers
from trimtab.server.pipeline.header import read
from trimtab.server.pipeline.networks import Network
from trimtab.server.pipeline.ops.base import Laps
from trimtab.server.pipeline.ops.crop import HEIGHT, Crop
from trimtab.server.pipeline.ops.decode import Decode
from trimtab.server.pipeline.ops.detect import Detect
from trimtab.server.pipeline.ops.direction import Direction
from trimtab.server.pipeline.ops.fit import SCALE, SHIFT, Fit
from trimtab.server.pipeline.ops.recognise import read as read_classes
from trimtab.server.pipeline.work import Job

Texts = list[str]
START_S = 90.0


class Processes:
    """Processes that answer on ports of their own; ended together."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[str]] = []

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        made = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        self._all.append(made)
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            process.terminate()
        for process in self._all:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stderr is not None:
                process.stderr.close()


def plain(processes: Processes, threads: int, workers: int, side: int, padding: int) -> int:
    """Start the two plain services; the port of the first one."""
    first, second = free_port(), free_port()
    program = str(Path(__file__).with_name("plain.py"))
    one = [sys.executable, program, "recognise", str(second), str(threads), str(workers), str(padding)]
    two = [sys.executable, program, "detect", str(first), str(threads), str(workers), str(side), str(second)]
    started = [processes.start(*one), processes.start(*two)]
    for port, process in ((second, started[0]), (first, started[1])):
        until = time.monotonic() + START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > until:
                said = process.stderr.read()[-800:] if process.stderr is not None else ""
                raise RuntimeError(f"a plain service did not start: {said}")
            time.sleep(0.1)
    return first


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Stock:
    """rapidocr as its readme calls it: one object, one call a picture.

    Parameters
    ----------
    threads : of ONNX Runtime; -1 is its own choice, all cores
    """

    def __init__(self, threads: int) -> None:
        from rapidocr import RapidOCR

        self._ocr = RapidOCR(
            params={"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": threads}
        )

    def __call__(self, body: bytes) -> Texts:
        found = self._ocr(body)
        return list(found.txts or ())


class Fused:
    """The same native stages called one after the other for each picture, its networks with all threads.

    Parameters
    ----------
    together : crops of a picture run in groups of this many, sorted by width
    padding : columns that a group has at least; rapidocr's own code uses groups of 6 and 320 columns
    """

    def __init__(self, threads: int, side: int, decode_side: int, together: int, padding: int) -> None:
        buffers = Buffers()
        self._stages: list[Any] = [
            Decode({"side": decode_side}, threads, buffers), Fit({"side": side}, threads, buffers),
            Detect({}, threads, buffers), Crop({}, threads, buffers),
        ]  # fmt: skip
        self._direction = Direction({}, threads, buffers)
        self._network = Network("ppocr-recognise", threads, spinning=True)
        # Nothing runs beside these calls, so their threads may spin, which is faster.
        self._stages[2].network = Network("ppocr-detect", threads, spinning=True)
        self._direction.network = Network("ppocr-direction", threads, spinning=True)
        self._characters = np.array(self._network.characters, dtype=object)
        self._together, self._padding = together, padding

    def __call__(self, body: bytes) -> Texts:
        job = Job(body, read(body, 100), math.inf, lambda job: None)
        for stage in self._stages:
            stage.run([job], Laps())
        texts = [""] * len(job.items)
        order = sorted(job.items, key=lambda item: item.width)
        for start in range(0, len(order), self._together):
            group = order[start : start + self._together]
            self._direction.run(group, Laps())
            width = max(self._padding, -(-max(item.width for item in group) // 8) * 8)
            batch = np.empty((len(group), 3, HEIGHT, width), np.float32)
            for item, planes in zip(group, batch, strict=True):
                _native.image_planes(item.pixels, planes, item.width, SCALE, SHIFT, True)
            found = self._network.run(batch)
            for item, row in zip(group, found, strict=True):
                texts[item.index], _ = read_classes(self._characters, row.argmax(axis=1), row.max(axis=1))
        return texts


def looped(
    call: Callable[[bytes], Any], bodies: Sequence[bytes], order: Sequence[int]
) -> tuple[float, list[float]]:
    """Pictures a second of a plain loop, and each one's seconds."""
    times = []
    begin = time.perf_counter()
    for index in order:
        at = time.perf_counter()
        call(bodies[index])
        times.append(time.perf_counter() - at)
    return len(order) / (time.perf_counter() - begin), times


def piped(
    pipeline: Any, bodies: Sequence[bytes], order: Sequence[int], together: int
) -> tuple[float, list[float]]:
    """Pictures a second through a pipeline with `together` of them under way, and each one's seconds."""
    room, times, failed = threading.Semaphore(together), [0.0] * len(order), []
    begin = time.perf_counter()
    for number, index in enumerate(order):
        room.acquire()
        at = time.perf_counter()

        def tell(job: Any, number: int = number, at: float = at) -> None:
            times[number] = time.perf_counter() - at
            if job.error is not None:
                failed.append(job.error)
            room.release()

        pipeline.submit(bodies[index], tell)
    for _ in range(together):
        room.acquire()
    wall = time.perf_counter() - begin
    if failed:
        raise failed[0]
    return len(order) / wall, times


def one(pipeline: Any, body: bytes) -> Job:
    """One picture through a pipeline; waits."""
    over = threading.Event()
    job: Job = pipeline.submit(body, lambda job: over.set())
    over.wait()
    if job.error is not None:
        raise job.error
    return job
