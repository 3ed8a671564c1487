"""A trace of requests: run one after the other, and estimated from a few of other lengths."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from load import calm
from load.timing import SEED, inside, timed
from trimtab.evaluate.calibration import QUICK_OUTPUTS, Calibration
from trimtab.evaluate.llm import prior_of, warm_up
from trimtab.evaluate.workload import mix
from trimtab.machine.bench import BenchOptions, target

TRACE = 500
CALIBRATION_OF_TRACE_S = 11.0
PATIENCE_S = 60.0

Say = Callable[[str], None]


def measure(options: BenchOptions, say: Say) -> dict[str, Any]:
    requests = mix("mixed", 20 if options.quick else TRACE, SEED)
    with inside(options) as engine:
        calibration = Calibration(
            engine, seed=SEED + 1, prior=prior_of(engine), outputs=QUICK_OUTPUTS,
            budget_s=4.0 if options.quick else CALIBRATION_OF_TRACE_S,
        )  # fmt: skip
        warm_up(engine, calibration)
        quiet = calm.Calm(calm.decoding(engine.run, SEED), 1 if options.quick else PATIENCE_S)
        each, every = [], max(1, len(requests) // 45)
        for number, request in enumerate(requests):
            quiet.wait()
            each.append(timed(engine, calibration, request.prompt_tokens, request.output_tokens)[1])
            if number % every == 0:
                calibration.step()
            if number % 50 == 0:
                say(
                    f"trace {number}/{len(requests)}, {sum(each):.0f} s; "
                    f"calibration {calibration.spent_s:.1f} s"
                )
        while calibration.step():
            pass
        start = time.perf_counter()
        usual = calibration.fit("median")
        estimate = usual.total_s((r.prompt_tokens, r.output_tokens) for r in requests)
        cost = calibration.spent_s + time.perf_counter() - start
    total = sum(each)
    say(f"trace: {total:.1f} s run, {estimate:.1f} s estimated in {cost:.1f} s")
    return {
        "error": estimate / total - 1,
        "times cheaper": total / cost,
        "targets": [
            target("trace of 500 requests, error of the total", abs(estimate / total - 1), most=0.05),
            target("times less wall time than running them", total / cost, least=1 if options.quick else 20),
        ],
        "table": [
            {"part": "trace", "model": "run", "requests": len(requests), "seconds": total},
            {"part": "trace", "model": "estimated", "requests": calibration.runs, "seconds": estimate,
             "wall seconds": cost},
        ],
        "samples": {"each": each, "calibration": calibration.report()["samples"], "waited_s": quiet.waited_s},
    }  # fmt: skip
