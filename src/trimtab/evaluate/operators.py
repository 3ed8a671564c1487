"""Measures what each kind of operation takes: steps of a reference model, recorded and fitted.

The model is none that anybody serves, so what is fitted here can be tried on those that are. A step is made
by hand: so many sequences, so many rows of each, so far into their contexts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from trimtab.engine.batch import PAGE_TOKENS, Batch
from trimtab.engine.runner import NativeRunner
from trimtab.engine.sampling import ADJUST, SAMPLING
from trimtab.evaluate.reference_model import VOCAB, ReferenceSource
from trimtab.machine import spans
from trimtab.machine.dissect.operator_rates import Sample, fit, key_of
from trimtab.machine.dissect.steps import steps_of
from trimtab.machine.dissect.work import work
from trimtab.models.config import config_from

CONTEXT = 1024
# Weight format with type of cache: each of both once.
FORMS = (("q4", "bf16"), ("q8", "int8"), ("q4", "f32"))
# (sequences, rows of each, position of the first), and how often; the longest prefill is two such steps.
STEPS = (
    (1, 1, 40, 24), (1, 1, 300, 24), (1, 1, 900, 24), (4, 1, 200, 12), (8, 1, 60, 12), (8, 1, 500, 12),
    (16, 1, 300, 10), (32, 1, 60, 10), (32, 1, 500, 10), (1, 48, 0, 8), (1, 128, 0, 6), (1, 256, 0, 5),
    (1, 512, 0, 4), (1, 384, 512, 4),
)  # fmt: skip
QUICK_STEPS = (
    (1, 1, 40, 8),
    (1, 1, 900, 8),
    (8, 1, 300, 5),
    (32, 1, 300, 4),
    (1, 128, 0, 3),
    (1, 384, 384, 3),
)
LEAST_SAMPLES = 3


def measure(
    threads: int | None = None, *, quick: bool = False, say: Callable[[str], None] = lambda line: None,
    forms: Sequence[tuple[str, str]] = FORMS,
) -> dict[str, Any]:  # fmt: skip
    """The section `operators`; takes about 15 seconds, and 5 if `quick`."""
    samples: list[Sample] = []
    used = 0
    for format, kv_type in forms:
        say(f"a reference model of {format} weights and a cache of {kv_type}")
        with reference(format, kv_type, threads, layers=4 if quick else 12) as runner:
            samples += sampled(runner, QUICK_STEPS if quick else STEPS)
            used = runner.threads
    return {"threads": used, "quick": quick, "samples": len(samples), **fit(samples).to_data()}


@contextmanager
def reference(format: str, kv_type: str, threads: int | None, layers: int) -> Iterator[NativeRunner]:
    """A runner of the reference model whose pages have all been written."""
    source = ReferenceSource(layers)
    config = config_from(source)
    pages = 32 * (CONTEXT // PAGE_TOKENS)
    runner = NativeRunner.open(
        source, config, num_pages=pages, max_rows=512, max_wanted=64, context=CONTEXT, threads=threads,
        kv_type=kv_type, format=format,
    )  # fmt: skip
    try:
        for page in range(pages):
            runner.page(page)[:] = 0x3C  # a small number in every type
        yield runner
    finally:
        runner.close()


def sampled(runner: NativeRunner, steps: Iterable[tuple[int, int, int, int]]) -> list[Sample]:
    """Every operation of every step as one sample: the median over layers and repetitions."""
    found: list[Sample] = []
    for sequences, rows, first, times in steps:
        batch = batch_of(sequences, rows, first)
        runner.step(batch)
        runner.recorder.start()
        for _ in range(times):
            runner.step(batch)
        runner.recorder.stop()
        found += _samples(spans.take(runner.recorder, {}, runner.operations))
    return found


def batch_of(sequences: int, rows: int, first: int, seed: int = 0) -> Batch:
    """A greedy step of sequences that are equally far, each in pages of its own."""
    draw = np.random.default_rng(seed)
    each = CONTEXT // PAGE_TOKENS
    wanted = sequences
    sampling = np.zeros(wanted, SAMPLING)
    sampling["score"], sampling["top_logprobs"], sampling["repetition"] = -1, -1, 1
    positions = np.tile(np.arange(first, first + rows, dtype=np.int32), sequences)
    return Batch(
        tokens=draw.integers(0, VOCAB, sequences * rows, dtype=np.int32),
        positions=positions,
        span_start=np.arange(sequences + 1, dtype=np.int32) * rows,
        page_start=np.arange(sequences + 1, dtype=np.int32) * each,
        pages=np.arange(sequences * each, dtype=np.int32),
        wanted=np.arange(1, wanted + 1, dtype=np.int32) * rows - 1,
        sampling=sampling,
        adjust_start=np.zeros(wanted + 1, np.int32),
        adjust=np.zeros(0, ADJUST),
    )


def _samples(recording: spans.Recording) -> list[Sample]:
    steps = steps_of(recording)
    if len(steps.shapes) < LEAST_SAMPLES:
        return []
    alike: dict[str, list[int]] = {}
    for number, operation in enumerate(recording.operations):
        name = re.sub(r"\blayers\.\d+\.", "", operation["module"])
        alike.setdefault(f"{name} {operation['kind']}", []).append(number)
    found = []
    shape = steps.shapes[-1]
    for numbers in alike.values():
        operation = recording.operations[numbers[0]]
        done = work(operation, shape)
        if done.total_ops:
            seconds = float(np.median(steps.seconds[:, numbers]))
            found.append(Sample(key_of(operation, shape), done.total_ops, done.streamed_bytes, seconds))
    return found
