"""The networks of a pipeline without what surrounds them: tensors in memory, as many runs as cores.

This is the throughput that an estimate from the networks alone would promise, and the law by which a batch's
time follows from its size.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trimtab.server.pipeline.buffers import Array, Buffers
from trimtab.server.pipeline.header import read
from trimtab.server.pipeline.images import Picture
from trimtab.server.pipeline.ops import operation
from trimtab.server.pipeline.ops.base import Laps, Op
from trimtab.server.pipeline.ops.crop import HEIGHT
from trimtab.server.pipeline.spec import PipelineSpec
from trimtab.server.pipeline.work import Item, Job

_LAW = {
    "recognise-text": ((1, 64), (1, 320), (4, 160), (8, 64), (8, 320)),
    "text-direction": ((1, 192), (8, 192)),
}
_TRIES = 5


class _Recorder:
    """A network that remembers what it was given."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.batches: list[Array] = []

    def run(self, batch: Array) -> Array:
        self.batches.append(batch.copy())
        found: Array = self.network.run(batch)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


def throughput(spec: PipelineSpec, pictures: Sequence[Picture], cores: int, seconds: float) -> float:
    """Pictures a second, weighted as in the mix, if only the networks had to run."""
    ops = [operation(stage.op)(stage.settings, spec.threads, Buffers()) for stage in spec.stages]
    recorders = [_Recorder(op.network) for op in ops if hasattr(op, "network")]
    for op, recorder in zip((op for op in ops if hasattr(op, "network")), recorders, strict=True):
        op.network = recorder
    work: list[list[tuple[Any, Array]]] = []
    for picture in pictures:
        for recorder in recorders:
            recorder.batches = []
        _through(spec, ops, picture)
        work.append([(recorder.network, batch) for recorder in recorders for batch in recorder.batches])
    # A picture's time alone on its core while the other cores do the same, then the mean over the mix.
    weights = [picture.weight for picture in pictures]
    spent = [0.0] * len(pictures)

    def one(index: int) -> None:
        for network, batch in work[index]:
            network.run(batch)

    share = seconds / len(pictures)
    for index in range(len(pictures)):
        spent[index] = _each(lambda index=index: one(index), cores, share, 2)  # type: ignore[misc]
    mean_s = sum(weight * s for weight, s in zip(weights, spent, strict=True)) / sum(weights)
    return cores / mean_s if mean_s else 0.0


def batch_law(spec: PipelineSpec, cores: int) -> dict[str, Any]:
    """For each stage of crops: ms of a batch = `fixed_ms` + `column_ms` * items * columns of the widest."""
    found: dict[str, Any] = {}
    for stage in spec.stages:
        if stage.op not in _LAW:
            continue
        op = operation(stage.op)(stage.settings, spec.threads, Buffers())
        rows = []
        for count, width in _LAW[stage.op]:
            strips = [np.full((HEIGHT, width, 3), 200, np.uint8) for _ in range(count)]

            def run(op: Op = op, strips: list[Array] = strips) -> None:
                op.run([Item(None, 0, strip) for strip in strips], Laps())  # type: ignore[arg-type]

            rows.append((count * width, _each(run, cores, 0.0, _TRIES) * 1e3))
        size = np.array([[1.0, columns] for columns, _ in rows])
        # Relative errors count, so that small batches are not drowned by large ones.
        ms = np.array([value for _, value in rows])
        fixed, column = np.linalg.lstsq(size / ms[:, None], np.ones(len(ms)), rcond=None)[0]
        found[stage.title] = {"fixed_ms": max(0.0, float(fixed)), "column_ms": float(column)}
    return found


def _each(work: Callable[[], None], cores: int, seconds: float, tries: int) -> float:
    """Seconds of one run while every core runs it; the median of some."""
    work()
    times: list[float] = []
    until = time.perf_counter() + seconds

    def loop() -> None:
        done = 0
        while done < tries or time.perf_counter() < until:
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
            done += 1

    threads = [threading.Thread(target=loop) for _ in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return float(np.median(times))


def _through(spec: PipelineSpec, ops: Sequence[Op], picture: Picture) -> None:
    job = Job(picture.body, read(picture.body, 1e6), math.inf, lambda job: None)
    for stage, op in zip(spec.stages, ops, strict=True):
        if not op.each:
            op.run([job], Laps())
            continue
        items = sorted(job.items, key=lambda item: item.width)
        for start in range(0, len(items), stage.batch.most):
            op.run(items[start : start + stage.batch.most], Laps())
