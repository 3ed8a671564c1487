"""Which of six candidates is fastest on which workload: predicted against measured order."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

from load import random_model
from load.timing import SEED, inside, timed
from trimtab.evaluate.calibration import QUICK_OUTPUTS, Calibration
from trimtab.evaluate.llm import prior_of, warm_up
from trimtab.evaluate.targets import Inside
from trimtab.evaluate.workload import mix
from trimtab.machine.bench import BenchOptions, target

FORMATS = ("q4", "q8", "bf16")
TRIALS = 3
WORKLOADS = ("chat", "summary", "extract")

Say = Callable[[str], None]


def measure(options: BenchOptions, say: Say) -> dict[str, Any]:
    formats, count = (FORMATS[:2], 2) if options.quick else (FORMATS, 4)
    trials = 1 if options.quick else TRIALS
    work = {name: mix(name, count, SEED, most_prompt=1600) for name in WORKLOADS}
    opened: dict[str, tuple[Inside, Calibration]] = {}
    measured: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        second = random_model.make(Path(folder) / "shape-only", SEED)
        try:
            for number, (model, form) in enumerate(
                (m, f) for m in (options.model, str(second)) for f in formats
            ):
                name = f"{'shape-only' if model == str(second) else model} {form}"
                engine = inside(options, model=model, format=form)
                calibration = Calibration(
                    engine, seed=SEED + number, budget_s=2 if options.quick else 12, outputs=QUICK_OUTPUTS,
                    prior=prior_of(engine),
                )  # fmt: skip
                warm_up(engine, calibration)
                opened[name], measured[name] = (engine, calibration), {each: [] for each in WORKLOADS}
            for trial in range(trials):
                for name, (engine, calibration) in opened.items():
                    for kind, requests in work.items():
                        measured[name][kind].append(sum(
                            timed(engine, calibration, r.prompt_tokens, r.output_tokens)[1] for r in requests
                        ))  # fmt: skip
                for _ in range(70 // trials + 1):
                    for _, calibration in opened.values():
                        calibration.step()
                say(f"ranking {trial + 1}/{trials}")
            fitted = {name: calibration.fit() for name, (_, calibration) in opened.items()}
        finally:
            for engine, _ in opened.values():
                engine.close()
    wrong, close, pairs, table, errors = 0, 0, 0, [], []
    for kind, requests in work.items():
        lengths = [(r.prompt_tokens, r.output_tokens) for r in requests]
        took = {name: min(measured[name][kind]) for name in opened}
        said = {name: fitted[name].total_s(lengths) for name in opened}
        table += [
            {
                "part": "ranking",
                "model": name,
                "workload": kind,
                "seconds": took[name],
                "estimated": said[name],
            }
            for name in sorted(took, key=lambda name: took[name])
        ]
        errors += [abs(said[name] / took[name] - 1) for name in opened]
        for one, other in combinations(opened, 2):
            pairs += 1
            ratio = took[one] / took[other]
            if max(ratio, 1 / ratio) <= 1.03:
                close += 1
            elif (took[one] < took[other]) != (said[one] < said[other]):
                wrong += 1
    say(
        f"ranking: {wrong} of {pairs} pairs wrong, {close} within 3 %, "
        f"mean error {statistics.fmean(errors):.1%}"
    )
    return {
        "targets": [
            target("ranking of candidates on 3 workloads, pairs in the wrong order", wrong, most=0),
        ],
        "table": table,
        "samples": {"measured": measured, "pairs": pairs, "within 3 %": close, "errors": errors},
    }
