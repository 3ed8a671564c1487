"""A pipeline on a clock of its own: the same queues, the same choice of what runs next, measured times.

Simulated, not measured: it says what latency follows from demands, arrivals and batching, and whoever shows
its figures has to say so. The queues are the pipeline's own class; costs come from the profile's section.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.server.pipeline.batcher import Batcher
from trimtab.server.pipeline.load import quantile


@dataclass(slots=True, eq=False)
class Arriving:
    """A picture to come.

    Parameters
    ----------
    at_s : when
    stage_s : its time in each stage of whole pictures
    columns : widths of its crops
    """

    at_s: float
    stage_s: Sequence[float]
    columns: Sequence[int]
    open_items: int = 0
    done_s: float = math.inf
    queued_at: float = 0.0


@dataclass(slots=True, eq=False)
class Crop:
    """One crop of a picture."""

    job: Arriving
    width: int
    queued_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelStage:
    """A stage of the model.

    Parameters
    ----------
    each : it works on crops
    cost_s : of a batch of crops, from their widths; not used for whole pictures
    """

    each: bool
    workers: int
    most: int = 1
    delay_s: float = 0.0
    bucket: int = 32
    cost_s: Callable[[Sequence[int]], float] = field(default=lambda widths: 0.0)


def simulate(
    stages: Sequence[ModelStage], jobs: Sequence[Arriving], cores: int, speed: float = 1.0
) -> list[float]:
    """Seconds from arrival to end of each job; `speed` scales the cores."""
    waiting: list[Batcher[Any]] = [Batcher(stage.most, stage.delay_s) for stage in stages]
    running, free, order = [0] * len(stages), cores, 0
    events: list[tuple[float, int, str, Any]] = []
    for job in jobs:
        heapq.heappush(events, (job.at_s, order, "come", job))
        order += 1
    now = 0.0

    def put(number: int, units: Sequence[Any]) -> None:
        for unit in units:
            key = -(-unit.width // stages[number].bucket) if stages[number].each else 0
            waiting[number].put(unit, key, now)

    def finished(number: int, units: Sequence[Any]) -> None:
        following = number + 1
        for unit in units:
            if not stages[number].each and following < len(stages) and stages[following].each:
                unit.open_items = len(unit.columns)
                if unit.columns:
                    put(following, [Crop(unit, width) for width in unit.columns])
                else:
                    unit.done_s = now
            elif following < len(stages):
                put(following, [unit])
            elif stages[number].each:
                unit.job.open_items -= 1
                if not unit.job.open_items:
                    unit.job.done_s = now
            else:
                unit.done_s = now

    while events:
        now, _, kind, what = heapq.heappop(events)
        if kind == "come":
            put(0, [what])
        elif kind == "done":
            number, units = what
            running[number] -= 1
            free += 1
            finished(number, units)
        soonest = math.inf
        while free:
            for number in range(len(stages) - 1, -1, -1):
                if running[number] >= stages[number].workers:
                    continue
                units = waiting[number].take(now)
                if units:
                    if stages[number].each:
                        cost_s = stages[number].cost_s([unit.width for unit in units])
                    else:
                        cost_s = units[0].stage_s[number]
                    running[number] += 1
                    free -= 1
                    heapq.heappush(events, (now + cost_s / speed, order, "done", (number, units)))
                    order += 1
                    break
                soonest = min(soonest, waiting[number].ripe_at())
            else:
                break
        if free and soonest < math.inf:
            # A batch becomes ripe at that moment, and not a rounding error before it.
            heapq.heappush(events, (max(soonest, math.nextafter(now, math.inf)), order, "ripe", None))
            order += 1
    return [job.done_s - job.at_s for job in jobs]


def model_of(
    section: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]] | None = None
) -> list[ModelStage]:
    """The stages of a measured pipeline, with some settings changed.

    Parameters
    ----------
    changes : by stage, any of most, delay_ms, bucket, workers
    """
    stages = [ModelStage(False, section["cores"])]  # HTTP and what else is around the stages
    for spec in section["stages"]:
        title = spec["name"] or spec["op"]
        chosen = {**spec["batch"], "workers": spec["workers"], **(changes or {}).get(title, {})}
        each, law = title in section["law"], section["law"].get(title, {"fixed_ms": 0.0, "column_ms": 0.0})
        # The direction classifier squeezes all crops to one width: it has no buckets.
        bucket = 1 << 30 if spec["op"] == "text-direction" else int(chosen["bucket"])
        workers, delay_s = int(chosen["workers"]) or section["cores"], float(chosen["delay_ms"]) / 1e3
        cost = _cost(law["fixed_ms"] / 1e3, law["column_ms"] / 1e3, spec["op"])
        stages.append(ModelStage(each, workers, int(chosen["most"]), delay_s, bucket, cost))
    return stages


def arrivals_of(section: Mapping[str, Any], rate: float, count: int, seed: int) -> list[Arriving]:
    """Pictures of the measured mix, drawn by weight, at Poisson moments."""
    source = random.Random(f"{seed} model")
    rows = [row for row in section["pictures"] if row["cpu_ms"]]
    titles = [spec["name"] or spec["op"] for spec in section["stages"]]
    at, jobs = 0.0, []
    for row in source.choices(rows, [row["weight"] for row in rows], k=count):
        seconds = [section["cpu_ms"]["server"] / 1e3]
        seconds += [row["cpu_ms"].get(title, 0.0) / 1e3 for title in titles]
        jobs.append(Arriving(at, seconds, row["columns"]))
        at += source.expovariate(rate)
    return jobs


def p99_ms(section: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]], rate: float, seed: int = 0,
           count: int = 400) -> float:  # fmt: skip
    """Simulated 99th percentile of latency at a rate of pictures a second."""
    jobs = arrivals_of(section, rate, count, seed)
    speed = section["busy_cores"] / section["cores"]
    return 1e3 * quantile(simulate(model_of(section, changes), jobs, section["cores"], min(1.0, speed)), 0.99)


def _cost(fixed_s: float, column_s: float, op: str) -> Callable[[Sequence[int]], float]:
    if op == "text-direction":
        return lambda widths: fixed_s + column_s * len(widths) * 192
    return lambda widths: fixed_s + column_s * len(widths) * max(widths)
