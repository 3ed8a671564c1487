"""Where a request's time goes by picture and network, and how much of the networks' throughput is left."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from trimtab.machine.bench import target
from trimtab.server.pipeline import load, measure, networks_alone
from trimtab.server.pipeline.runtime import Pipeline
from trimtab.server.pipeline.spec import checked
from vision import pipelines, rivals

PREPARING = ("decode: decoded", "fit: resized", "fit: normalised", "whole: ", "direction: resized",
             "direction: normalised")  # fmt: skip
LEAST_IOU, LEAST_ALIKE = 0.9, 0.95
SCALED_SIDE = 640  # of the native path's decode: twice the detector's, so that resizing still averages
Found = tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]


def shares(quick: bool, say: Callable[[str], None]) -> Found:
    """Four sizes by three networks, one at a time, step by step with Pillow and numpy."""
    names = ["500x375"] if quick else [*pipelines.SIZES]
    kinds = {
        "direction": pipelines.direction(),
        "detector at 320": pipelines.detector(320, naive=True),
        "detector at 736": pipelines.detector(736, naive=True),
    }
    tries = 3 if quick else 15
    pictures, rows, samples = pipelines.photos(*names), [], {}
    with pipelines.written(*kinds.values()) as places, pipelines.files(pictures) as files:
        for kind, place in zip(kinds, places, strict=True):
            with measure.served(place) as server:
                for number, name in enumerate(names):
                    order = [number] * (tries + 2)  # the first ones warm
                    load.carry_out(load.Plan(server.port, files, order, keep=False))
                    seen = json.loads(server.get("/console/api/pipeline"))["recent"][-tries:]
                    samples[f"{kind}, {name}"] = [_sum(one) for one in seen]
                    row = {
                        "work": f"shares: {kind}, {name}",
                        "ms": statistics.median(one["total_ms"] for one in seen),
                        "preparing": statistics.median(_sum(one, PREPARING) for one in seen),
                        "network": statistics.median(
                            _sum(one, (f"{_last(one)}: inference",)) for one in seen
                        ),
                        "stages/total": statistics.median(_sum(one) for one in seen),
                    }
                    rows.append(row)
                    say(f"{kind}, {name}: {row['ms']:.1f} ms, preparing {row['preparing']:.0%}")
    covered = [row["stages/total"] for row in rows]
    targets = [
        target("stages over server-side latency, the lowest cell", min(covered), least=0.97),
        target("stages over server-side latency, the highest cell", max(covered), most=1.03),
    ]
    return rows, targets, samples


def preservation(quick: bool, rounds: int, say: Callable[[str], None]) -> Found:
    """12-megapixel pictures and the detector at 320: naive against native, the accuracy gate beside."""
    naive = pipelines.detector(320, naive=True)
    native = pipelines.detector(320, naive=False, decode_side=SCALED_SIDE)
    text = pipelines.pages(6, 1 if quick else 4, scale=6.25, font=32)
    pictures = [*pipelines.photos("4000x3000"), *text]
    alone = networks_alone.throughput(checked(native), pictures, measure.usable(), 0.5 if quick else 3.0)
    rates: dict[str, list[float]] = {"naive": [], "native": []}
    counts = {"naive": len(pictures) * (1 if quick else 4), "native": len(pictures) * (2 if quick else 12)}
    with (
        pipelines.written(naive, native) as places,
        pipelines.files(pictures) as files,
        measure.served(places[0]) as first,
        measure.served(places[1]) as second,
    ):
        for number in range(rounds + 1):
            for name, server in (("naive", first), ("native", second)):
                count = counts[name] if number else len(files)  # the first round warms
                order = [index % len(files) for index in range(count)]
                seen = load.carry_out(load.Plan(server.port, files, order, clients=6, keep=False))
                if number:
                    rates[name].append(len(order) / seen["wall_s"])
                    say(f"12 megapixels, {name}: {rates[name][-1]:.2f}/s")
    ratio = statistics.median(b / a for a, b in zip(rates["naive"], rates["native"], strict=True))
    kept = {name: statistics.median(values) / alone for name, values in rates.items()}
    work = "12 megapixels, detector at 320"
    rows: list[dict[str, Any]] = [
        {"work": f"{work}: {name}", "pictures/s": statistics.median(values), "preserved": kept[name]}
        for name, values in rates.items()
    ]
    rows.append({"work": f"{work}: networks alone", "pictures/s": alone})
    alike = _agreement([picture.body for picture in text])
    targets = [
        target("naive: share of the networks' own throughput, 12 megapixels", kept["naive"], most=0.30),
        target("native over naive throughput, 12 megapixels", ratio, least=2.0),
        target("boxes with IoU of 0.9 to those of the full-resolution decode", alike, least=LEAST_ALIKE),
    ]
    return rows, targets, {**rates, "networks alone": [alone]}


def _agreement(bodies: list[bytes]) -> float:
    """Share of the boxes of the full decode that the scaled one has, too."""
    from shapely.geometry import Polygon

    found = []
    for decode_side in (0, SCALED_SIDE):
        pipeline = Pipeline(checked(pipelines.detector(320, naive=False, decode_side=decode_side)))
        jobs = [rivals.one(pipeline, body) for body in bodies]
        found.append([np.asarray(job.values["boxes"]) * job.values["scale"] for job in jobs])
        pipeline.close()
    best = []
    for whole, scaled in zip(*found, strict=True):
        others = [Polygon(box) for box in scaled]
        for box in map(Polygon, whole):
            overlaps = (box.intersection(other).area / box.union(other).area for other in others)
            best.append(max(overlaps, default=0.0))
    return sum(each >= LEAST_IOU for each in best) / len(best) if best else 0.0


def _sum(one: dict[str, Any], names: tuple[str, ...] = ("",)) -> float:
    """Share of a request's time in what begins with one of these names."""
    return float(sum(ms for name, ms in one["stages_ms"].items() if name.startswith(names)) / one["total_ms"])


def _last(one: dict[str, Any]) -> str:
    return next(name.partition(":")[0] for name in one["stages_ms"] if name.endswith("inference"))
