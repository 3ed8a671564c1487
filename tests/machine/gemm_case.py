"""Products with made-up times that follow a known law, and ceilings that nothing has to be measured for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from trimtab.machine.gemm.blocking import DEFAULT, NAIVE, Kernel, candidates
from trimtab.machine.gemm.collect import Row, Task
from trimtab.machine.gemm.roof import Roof
from trimtab.machine.gemm.shapes import Shape, grid

KERNELS = {
    "int8": Kernel("int8", "token", 12, 4, 24),
    "bf16": Kernel("bf16", "wide", 12, 4, 12),
    "q4+min": Kernel("q4+min", "grouped", 12, 4, 12),
}
RATES = [(2.0**14, 2e11), (2.0**20, 1e11), (2.0**25, 3e10)]
ROOFS = {
    count: Roof(
        count, {"int8": 4e11 * count, "float32": 1e11 * count}, RATES, 1e-7 * count,
        (32768.0 * count, 2.0**20 * count, 2.0**25), "probe",
    )
    for count in (1, 2)
}  # fmt: skip

Law = Callable[[Task], float]


def law(task: Task) -> float:
    """A third slower than the roofline, worse for few rows, and better with wider blocks."""
    kernel, roof = KERNELS[task.format], ROOFS[task.threads]
    rows, tiles = (
        kernel.rows_of(task.blocking, task.shape.m),
        max(1, kernel.tiles_of(task.blocking, task.shape.m)),
    )
    compute, memory, barrier = roof.parts(task.format, task.shape)
    return 1.2 * (compute * (1 + 1.5 / (rows * max(1, tiles))) + memory) + barrier


def rows_by(
    time: Law = law, *, shapes: Sequence[Shape] = (), formats: Sequence[str] = ("int8", "bf16"),
    threads: Sequence[int] = (2,), ways: int = 1, noise: float = 0.0, seed: int = 1,
) -> list[Row]:  # fmt: skip
    """Rows of every product by default, and with up to `ways` other blockings."""
    chance = random.Random(seed)
    found = []
    for format in formats:
        for count in threads:
            for shape in shapes or grid(120):
                others = candidates(KERNELS[format], shape, count)[1:]
                chosen = [DEFAULT, *chance.sample(others, min(ways, len(others)))]
                for way in [*chosen, NAIVE] if ways > 3 else chosen:
                    seconds = time(Task(format, count, shape, way)) * (1 + noise * chance.uniform(-1, 1))
                    found.append(Row(format, count, shape, way, seconds, 0.01 * seconds, 3, 0.5))
    return found
