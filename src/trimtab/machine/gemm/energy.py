"""What a product costs in energy where the machine has a meter: power first, then energy as power times time.

Power is what the chip draws on average while a product is repeated: idle, a share for arithmetic, and one
for bytes moved. Energy is never learned by itself, since that would learn the time a second time. Where the
ladder of `trimtab.machine.power.energy` finds no meter nothing is said: a modelled figure takes no measured
one's place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trimtab.machine.gemm.collect import Task, Timer
from trimtab.machine.gemm.roof import activation_bytes, weight_bytes
from trimtab.machine.gemm.shapes import Shape
from trimtab.machine.power.energy import Energy, Meter

LOOP_S = 1.0
"""A counter moves a thousand times a second at most: shorter loops would read its steps."""
SHAPES = tuple(Shape(m, *side) for m in (1, 16, 256) for side in ((1024, 1024), (4096, 4096)))


@dataclass(frozen=True, slots=True)
class Draw:
    """Average power over a loop: watts, operations and bytes a second meanwhile."""

    watts: float
    ops_per_s: float
    bytes_per_s: float


def draw(
    meter: Meter, work: Callable[[], tuple[float, float]], clock: Callable[[], float] = time.monotonic
) -> Draw:
    """Repeat `work`, which returns the operations and bytes of a call, for `LOOP_S` between two readings."""
    ops = moved = 0.0
    before, start = meter.read(), clock()
    while clock() - start < LOOP_S:
        done = work()
        ops, moved = ops + done[0], moved + done[1]
    used, seconds = meter.read() - before, clock() - start
    return Draw(used / seconds, ops / seconds, moved / seconds)


@dataclass(frozen=True, slots=True)
class Power:
    """Watts as idle + a x operations a second + b x bytes a second, fitted to a meter's readings."""

    idle_w: float
    joules_per_op: float
    joules_per_byte: float
    source: str

    @classmethod
    def fit(cls, draws: Sequence[Draw], source: str) -> Power:
        """Least squares over three draws or more; no part is negative."""
        if len(draws) < 3:
            raise ValueError("power is fitted to three draws at least")
        x = np.array([[1.0, draw.ops_per_s, draw.bytes_per_s] for draw in draws])
        scale = np.maximum(np.abs(x).max(axis=0), 1e-300)
        parts, *_ = np.linalg.lstsq(x / scale, np.array([draw.watts for draw in draws]), rcond=None)
        idle, op, byte = (np.maximum(parts, 0) / scale).tolist()
        return cls(idle, op, byte, source)

    def watts(self, ops_per_s: float, bytes_per_s: float) -> float:
        return self.idle_w + self.joules_per_op * ops_per_s + self.joules_per_byte * bytes_per_s

    def energy(self, format: str, shape: Shape, seconds: float) -> Energy:
        """E = P t of a product that takes this long."""
        moved = _moved(format, shape)
        return Energy(self.watts(shape.ops / seconds, moved / seconds) * seconds, self.source)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Power:
        return cls(
            float(data["idle_w"]), float(data["joules_per_op"]), float(data["joules_per_byte"]),
            str(data["source"]),
        )  # fmt: skip


def measured(meter: Meter, timer: Timer, formats: Sequence[str], threads: int) -> Power:
    """Watch the meter while a few products of each format are repeated, a second each."""
    draws = []
    for format in formats:
        for shape in SHAPES:
            task = Task(format, threads, shape)
            once = timer.seconds(task)

            def loop(task: Task = task, calls: int = max(1, int(timer.loop_s / once))) -> tuple[float, float]:
                timer.seconds(task)
                return calls * task.shape.ops, calls * _moved(task.format, task.shape)

            draws.append(draw(meter, loop))
    return Power.fit(draws, meter.source)


def _moved(format: str, shape: Shape) -> float:
    activations = shape.m * (shape.k * activation_bytes(format) + 4.0 * shape.n)
    return weight_bytes(format, shape) + activations
