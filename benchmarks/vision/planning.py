"""What the planner promises: the batcher's tail latency, and the knee of mixes it has not seen."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from trimtab.machine.bench import target
from trimtab.search import demand, pipeline_plan
from trimtab.server.pipeline import load, measure
from trimtab.server.pipeline.images import Mix, Picture, drawn, pictures_of
from trimtab.server.pipeline.spec import checked
from vision import pipelines

LARGEST = {"most": 64, "delay_ms": 200.0, "bucket": 32}
LOAD = 0.6  # of the knee
CLIENTS = 6
Found = tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]


def batcher(quick: bool, rounds: int, say: Callable[[str], None]) -> Found:
    """The planned batch settings against the largest ones, on the same Poisson trace."""
    entries = [
        {"page": {"lines": lines, "width": 640, "height": 480, "font": 20}, "count": 2}
        for lines in ((1, 4) if quick else (1, 4, 8, 16))
    ]
    mix = Mix.model_validate({"seed": 5, "pictures": entries})
    large = pipelines.ocr(LARGEST)
    with pipelines.written(large) as places:
        section = measure.measure(places[0], mix, seconds=2 if quick else 8, quick=quick, say=say)
    kinds = [(row["weight"], row["features"]) for row in section["pictures"]]
    rate = LOAD * demand.fitted(section).knee(kinds)
    plan = pipeline_plan.plan(section, 1_000.0, rate)
    planned = {**large, "stages": pipeline_plan.applied(large["stages"], plan.changes)}
    say(f"planned: {yaml.safe_dump(dict(plan.changes), default_flow_style=True).strip()}")
    pictures = pictures_of(mix)
    count = 12 if quick else max(60, int(rate * 20))
    tails: dict[str, list[float]] = {"largest batch": [], "planned": []}
    done: dict[str, list[float]] = {"largest batch": [], "planned": []}
    with (
        pipelines.written(large, planned) as places,
        pipelines.files(pictures) as files,
        measure.served(places[0]) as first,
        measure.served(places[1]) as second,
    ):
        for number in range(rounds):
            order, due = drawn(pictures, count, number), load.poisson(rate, count, number)
            for name, server in (("largest batch", first), ("planned", second)):
                if not number:
                    load.carry_out(load.Plan(server.port, files, [*range(len(files))], keep=False))
                plan_of_load = load.Plan(server.port, files, order, due_s=due, keep=False)
                seen = measure.run_of(rate, load.carry_out(plan_of_load))
                tails[name].append(seen["p99_ms"])
                done[name].append(seen["per_s"])
                say(f"{name} at {rate:.2f}/s: p99 {seen['p99_ms']:.0f} ms, {seen['per_s']:.2f}/s done")
    lower = statistics.median(1 - b / a for a, b in zip(*tails.values(), strict=True))
    lost = statistics.median(1 - b / a for a, b in zip(*done.values(), strict=True))
    expected = {"largest batch": plan.unchanged_p99_ms, "planned": plan.p99_ms}
    rows = [
        {"work": f"batcher at {rate:.2f}/s: {name}", "p99 ms": statistics.median(tails[name]),
         "pictures/s": statistics.median(done[name]), "simulated p99 ms": ms}
        for name, ms in expected.items()
    ]  # fmt: skip
    targets = [
        target("p99 lowered by the planned batching", lower, least=0.20),
        target("throughput lost by it", lost, most=0.05),
    ]
    return rows, targets, {"p99_ms": tails, "per_s": done}


def _mix(seed: int, *parts: tuple[int, int, float]) -> Mix:
    """Photographs, 4 by 3: width, kilobytes and weight of each."""
    entries = [
        {"photo": {"width": width, "height": width * 3 // 4, "kilobytes": kilobytes}, "weight": weight}
        for width, kilobytes, weight in parts
    ]
    return Mix.model_validate({"seed": seed, "pictures": entries})


LEARNT = _mix(
    2, (160, 8, 1), (400, 40, 1), (640, 110, 1), (1024, 160, 1), (1600, 500, 1), (2400, 700, 1),
    (3200, 1400, 1), (4000, 1200, 1),
)  # fmt: skip
UNSEEN = {
    "small": _mix(10, (320, 25, 3), (500, 80, 2)),
    "medium": _mix(11, (800, 150, 2), (1280, 250, 2)),
    "large": _mix(12, (3600, 1500, 1), (4000, 1700, 1)),
    "mostly small": _mix(13, (480, 60, 8), (3000, 1000, 2)),
    "mostly large": _mix(14, (720, 90, 2), (2800, 900, 8)),
    "everything": _mix(15, (240, 12, 1), (560, 90, 1), (1200, 300, 1), (2000, 650, 1), (3800, 1300, 1)),
}


def knees(quick: bool, say: Callable[[str], None]) -> Found:
    """The predicted knee of six mixes that were not measured, and what the networks alone would promise."""
    content = pipelines.detector(320, naive=False)  # native, every pixel decoded
    spec = checked(content)
    rows: list[dict[str, Any]] = []
    errors: list[float] = []
    wrong = 0.0
    with pipelines.written(content) as places:
        section = measure.measure(places[0], LEARNT, seconds=1 if quick else 12, quick=quick, say=say)
        law = demand.fitted(section)
        with measure.served(places[0]) as server:
            for name in ["large"] if quick else UNSEEN:
                pictures = pictures_of(UNSEEN[name])
                kinds = [(picture.weight, measure.features_of(picture, spec)) for picture in pictures]
                predicted, promised = law.knee(kinds), law.networks_only(kinds)
                measured = _knee(server.port, pictures, predicted, 1.0 if quick else 6.0)
                errors.append(predicted / measured - 1)
                if name == "large":
                    wrong = promised / measured
                rows.append(
                    {"work": f"knee of an unseen mix: {name}", "pictures/s": measured, "predicted": predicted,
                     "networks only": promised}
                )  # fmt: skip
                say(f"knee, {name}: {measured:.2f}/s, predicted {predicted:.2f}")
    worst = max(map(abs, errors))
    targets = [
        target("error of the predicted knee, the worst of the unseen mixes", worst, most=0.10),
        target("large mix: estimate from the networks alone over what is measured", wrong, least=2.0),
    ]
    return rows, targets, {"errors": errors}


def _knee(port: int, pictures: Sequence[Picture], guess: float, seconds: float) -> float:
    """Throughput of a saturated server; clients that wait for their answers never leave it idle."""
    with pipelines.files(pictures) as files:
        load.carry_out(load.Plan(port, files, [*range(len(files))], keep=False))
        order = drawn(pictures, max(12, int(guess * seconds)), 3)
        seen = load.carry_out(load.Plan(port, files, order, clients=CLIENTS))
    if any(row["status"] != 200 for row in seen["seen"]):
        raise RuntimeError("the pipeline failed requests of an unseen mix")
    return len(order) / float(seen["wall_s"])
