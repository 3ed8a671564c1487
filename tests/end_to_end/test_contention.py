"""A neighbour that keeps one processor busy costs throughput, but does not collapse it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trimtab import LLM, SamplingParams

MOST = 2.5
ROUNDS, TOKENS = 7, 200
SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nprint(flush=True)\nwhile True: pass"


@contextmanager
def busy(processor: int) -> Iterator[None]:
    """A process that never rests, on one processor."""
    with subprocess.Popen([sys.executable, "-c", SPIN, str(processor)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("requests", [1, 8])
def test_a_busy_processor_costs_at_most_2_5_times(default_model: Path, requests: int) -> None:
    """Alone and crowded alternate; what others do meanwhile meets both, and the medians are compared."""
    allowed = sorted(os.sched_getaffinity(0))[-2:]
    assert len(allowed) == 2, "needs two processors"
    prompts = [f"Chapter {number}. The ship left the harbour" for number in range(requests)]
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    with LLM(default_model, threads=2, context=1024) as llm:

        def seconds() -> float:
            start = time.perf_counter()
            llm.generate(prompts, params)
            return time.perf_counter() - start

        seconds()
        alone, crowded = [], []
        for _ in range(ROUNDS):
            alone.append(seconds())
            with busy(allowed[-1]):
                crowded.append(seconds())
    ratio = statistics.median(crowded) / statistics.median(alone)
    rates = [requests * TOKENS / statistics.median(times) for times in (alone, crowded)]
    assert ratio <= MOST, f"{rates[0]:.0f} tokens/s alone, {rates[1]:.0f} crowded: {ratio:.2f} times slower"
