"""Which timings a budget is spent on: every product as it runs by default, then other ways to cut it.

Formats and thread counts that a prediction is asked for most come first. What must be known of the choice
of a blocking is learned from a few products with many ways to cut them, and from all others with one or two.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from trimtab.machine.gemm.blocking import NAIVE, Blocking, Kernel, candidates
from trimtab.machine.gemm.collect import LOOP_S, VISITS, Task, cost_s
from trimtab.machine.gemm.shapes import LAYERS, Shape

FORMATS = ("int8", "bf16", "q4+min", "q8", "q4")
"""Most wanted first; `q4+min` is what 4-bit weights become."""
CHOICE_ROWS = (1, 8, 64, 512)
CHOICE_OF = ("SmolLM2-135M", "1B")
CHOICES = 14
"""Products with many ways to cut them, and how many ways each besides the default."""


def tasks(
    kernels: Mapping[str, Kernel], threads: Sequence[int], shapes: Sequence[Shape], budget_s: float, *,
    loop_s: float = LOOP_S, visits: int = VISITS, seed: int = 1,
) -> list[Task]:  # fmt: skip
    """Timings that fit the budget: stage by stage, and inside a stage the cheap ones first.

    Parameters
    ----------
    kernels : format -> how it is multiplied, the most wanted first
    threads : the most wanted first
    """
    found: dict[Task, None] = {}
    left = budget_s
    for stage in _stages(kernels, threads, shapes, random.Random(seed)):
        for task in sorted(dict.fromkeys(stage), key=lambda task: cost_s(task, loop_s, visits)):
            cost = cost_s(task, loop_s, visits)
            if task not in found and cost <= left:
                found[task] = None
                left -= cost
    return list(found)


def choice_shapes() -> list[Shape]:
    """Products that many blockings are timed for."""
    return [Shape(m, *layer) for name in CHOICE_OF for layer in LAYERS[name] for m in CHOICE_ROWS]


def _stages(
    kernels: Mapping[str, Kernel], threads: Sequence[int], shapes: Sequence[Shape], chance: random.Random
) -> Iterator[list[Task]]:
    main, others = list(kernels)[:2], list(kernels)[2:]
    most, *fewer = threads
    wanted = [shape for shape in choice_shapes() if shape in set(shapes)]

    def every(formats: Sequence[str], count: int, some: Sequence[Shape]) -> list[Task]:
        return [Task(format, count, shape) for format in formats for shape in some]

    def one_more(formats: Sequence[str], count: int, some: Sequence[Shape]) -> list[Task]:
        return [
            Task(format, count, shape, chance.choice(ways[1:]))
            for format in formats
            for shape in some
            if len(ways := candidates(kernels[format], shape, count)) > 1
        ]

    yield every(main, most, shapes)
    yield one_more(main, most, shapes)
    for format in (*main, *others[:1]):
        yield [
            Task(format, most, shape, blocking)
            for shape in wanted
            for blocking in _spread(kernels[format], shape, most, chance)
        ]
    yield every(others[:1], most, shapes[::2])
    for count in fewer:
        yield every((*main, *others[:1]), count, shapes[::4])
        yield one_more(main, count, shapes[1::4])
    yield every(others[1:], most, shapes[::3])
    yield one_more(others, most, shapes[1::3])
    yield one_more(main, most, shapes)


def _spread(kernel: Kernel, shape: Shape, threads: int, chance: random.Random) -> list[Blocking]:
    default, *ways = candidates(kernel, shape, threads)
    picked = ways if len(ways) <= CHOICES else chance.sample(ways, CHOICES)
    return [default, *picked, NAIVE]
