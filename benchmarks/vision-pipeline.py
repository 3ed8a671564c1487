"""OCR over HTTP is at least 1.8 times the plain two-service version, and all of its time is accounted for.

Five parts, each on pictures drawn from a seed. (1) Where a request's time goes: four sizes of photographs
by three networks, step by step with Pillow and numpy; the stages add up to 97-103 % of the server-side
latency. (2) What is left of the networks' own throughput for 12-megapixel JPEGs: naive at most 30 %, the
native path at least 2.0 times the naive one, with the same boxes. (3) Detector and recogniser coupled in
five ways at 1, 8 and 40 crops a picture, against one direct call after the other, against rapidocr's own
loop, and against two plain HTTP services at their best settings. (4) The planned batch settings against the
largest ones on one Poisson trace: p99 at least 20 % lower, at most 5 % less throughput. (5) The knee
predicted for six mixes that were not measured, within 10 %, and how far an estimate from the networks alone
is off. What the paper says of GPU decoding, energy and several GPUs is left out: it needs a GPU.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from trimtab.machine import quiet
from trimtab.machine.bench import BenchOptions
from trimtab.machine.probe import describe
from trimtab.machine.report import Report, command_line, versions
from vision import coupling, planning, shares

CLAIM = (__doc__ or "").partition("\n")[0]
MOST_ROUNDS = 3
"""More would only sharpen what is far from its target, and take more than twelve minutes."""


def run(options: BenchOptions) -> Report:
    import onnxruntime
    import rapidocr

    rounds = 1 if options.quick else min(options.rounds, MOST_ROUNDS)
    rows: list[Any] = []
    targets: list[Any] = []
    samples: dict[str, Any] = {}

    def take(part: str, found: tuple[Any, ...]) -> None:
        rows.extend(found[0])
        targets.extend(found[1])
        samples[part] = found[2]
        quiet.wait(0 if options.quick else options.patience_seconds)

    quiet.wait(0 if options.quick else options.patience_seconds)
    services = coupling.two_services(options.quick, rounds, _say)
    take("two services", services)
    coupled = coupling.couplings(options.quick, rounds, _say)
    take("couplings", coupled)
    take("shares", shares.shares(options.quick, _say))
    take("preservation", shares.preservation(options.quick, rounds, _say))
    take("batcher", planning.batcher(options.quick, rounds, _say))
    take("knees", planning.knees(options.quick, _say))
    lines_right = {row["work"]: row["lines right"] for row in rows if "lines right" in row}
    result = {
        "ratio": services[1][0]["value"],
        "unit": "times the pictures/s of the plain two-service version, one mix over HTTP",
        "limit_fraction": next((r["preserved"] for r in rows if r["work"].endswith("320: native")), None),
        "quality": {"lines read right": lines_right},
        "samples": services[2]["trimtab serve"],
        "targets": targets,
        "table": rows,
        "absent": coupled[3],
    }
    return Report(
        "vision-pipeline-quick" if options.quick else "vision-pipeline", CLAIM, asdict(describe()),
        versions(onnxruntime=onnxruntime.__version__, rapidocr=getattr(rapidocr, "__version__", "3.10")),
        command_line(), [1], samples, result,
    )  # fmt: skip


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
