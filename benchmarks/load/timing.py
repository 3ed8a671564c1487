"""One request in this process, for the parts of the benchmark of request times."""

from __future__ import annotations

from typing import Any

from trimtab.evaluate.calibration import Calibration
from trimtab.evaluate.targets import Inside
from trimtab.machine.bench import BenchOptions

SEED = 20_260_110


def inside(options: BenchOptions, **more: Any) -> Inside:
    """trimtab's engine on the benchmark's model, or on `model`."""
    return Inside(more.pop("model", options.model), context=2304, threads=options.threads, **more)


def timed(engine: Inside, calibration: Calibration, prompt: int, output: int) -> tuple[float, float]:
    """Seconds to the first token and to the last, on a prompt nobody has seen."""
    times = engine.run([calibration.tokens(prompt)], output)
    assert times is not None, "end of text is ignored"
    return times
