"""OCR by fan-out: how detector and recogniser are coupled, and the plain two-service version over HTTP."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.machine.bench import target
from trimtab.server.pipeline import load, measure
from trimtab.server.pipeline.runtime import Pipeline
from trimtab.server.pipeline.spec import checked
from vision import pipelines, rivals

OURS = "queue, batched across pictures"
FUSED, ALONE, STOCK = "fused, groups of 6 padded as published", "fused, crop by crop", "rapidocr's own loop"
RING, REDIS, DURABLE = "shared-memory ring", "Redis lists", "JetStream, on disk"
COUPLINGS: dict[str, dict[str, Any]] = {
    OURS: {},
    RING: {"worker": "process", "hand_over": "ring"},
    f"{RING}, JPEG": {"worker": "process", "hand_over": "ring", "payload": "jpeg"},
    REDIS: {"worker": "process", "hand_over": "redis-lists"},
    DURABLE: {"worker": "process", "hand_over": "jetstream-file"},
}
TOGETHER = 6
PLAIN_CHOICES = ((1, 2), (2, 1), (2, 2))
PADDING = 320
COUNTS = {1: 18, 8: 12, 40: 6}
Found = tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]


def couplings(
    quick: bool, rounds: int, say: Callable[[str], None]
) -> tuple[list[Any], list[Any], dict[str, Any], dict[str, str]]:
    """Throughput and p99 by fan-out; and what could not run, with the reason."""
    cores = measure.usable()
    pages = {lines: pipelines.pages(lines, 3) for lines in ((8,) if quick else pipelines.FAN_OUT)}
    rates: dict[tuple[str, int], list[float]] = {}
    times: dict[tuple[str, int], list[float]] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        lanes: dict[str, Any] = {}
        for name in (OURS, RING) if quick else COUPLINGS:
            try:
                lanes[name] = Pipeline(checked(pipelines.ocr(**COUPLINGS[name])))
                stack.callback(lanes[name].close)
            except TrimtabError as error:  # an optional broker that is not installed
                absent[name] = error.message
        loops: dict[str, Any] = {
            FUSED: rivals.Fused(cores, pipelines.SIDE, pipelines.DECODE_SIDE, 6, PADDING),
            ALONE: rivals.Fused(cores, pipelines.SIDE, pipelines.DECODE_SIDE, 1, 48),
            STOCK: rivals.Stock(-1),
        }
        right = {name: _right(name, lanes.get(name) or loops[name], pages) for name in (*lanes, *loops)}
        for number in range(rounds):
            for lines, group in pages.items():
                bodies = [page.body for page in group]
                order = [index % len(bodies) for index in range(4 if quick else COUNTS[lines])]
                names = [*lanes, *loops]
                turn = number % len(names)
                for name in names[turn:] + names[:turn]:
                    if name in lanes:
                        rate, seconds = rivals.piped(lanes[name], bodies, order, TOGETHER)
                    else:
                        part = order[: len(bodies)] if name == STOCK else order
                        rate, seconds = rivals.looped(loops[name], bodies, part)
                    rates.setdefault((name, lines), []).append(rate)
                    times.setdefault((name, lines), []).extend(seconds)
                    say(f"{lines} crops, {name}: {rate:.2f}/s")
    rows = [
        {"work": f"OCR, {lines} crops: {name}", "pictures/s": statistics.median(values),
         "p99 ms": 1e3 * load.quantile(times[name, lines], 0.99), "lines right": right[name]}
        for (name, lines), values in sorted(rates.items(), key=lambda one: one[0][1])
    ]  # fmt: skip
    targets = []
    for other, least in ((FUSED, 1.3), (STOCK, 1.5)):
        lowest = min(_ratio(rates[OURS, lines], rates[other, lines]) for lines in pages)
        targets.append(target(f"{OURS}, over {other}: the lowest of all fan-outs", lowest, least=least))
    if DURABLE in lanes and REDIS in lanes:
        slower = statistics.median(
            load.quantile(times[DURABLE, lines], 0.99) / load.quantile(times[REDIS, lines], 0.99)
            for lines in pages
        )
        targets.append(target("p99 of the durable broker over Redis lists, median", slower, least=1.05))
    targets.append(target(f"lines read right, {OURS}", right[OURS], least=0.95))
    return rows, targets, {f"{name}, {lines}": values for (name, lines), values in rates.items()}, absent


def two_services(quick: bool, rounds: int, say: Callable[[str], None]) -> Found:
    """The same mix of pages over HTTP: the plain two services at their best settings, and trimtab."""
    pages = [page for lines in ((8,) if quick else pipelines.FAN_OUT) for page in pipelines.pages(lines, 2)]
    if not quick:
        pages += pipelines.pages(8, 1, scale=4.0)  # a camera's picture of a page
    order = [number % len(pages) for number in range((2 if quick else 3) * len(pages))]
    rates: dict[str, list[float]] = {"two plain services": [], "trimtab serve": []}
    with pipelines.written(pipelines.ocr()) as places, pipelines.files(pages) as files:
        warm = [*range(len(files))]
        tried: dict[tuple[int, int], float] = {}
        for choice in PLAIN_CHOICES[:1] if quick else PLAIN_CHOICES:
            with rivals.Processes() as processes:
                port = rivals.plain(processes, *choice, pipelines.SIDE, PADDING)
                _rate(port, "/ocr", files, warm[:1])
                tried[choice] = _rate(port, "/ocr", files, warm)
                say(f"two plain services, threads {choice[0]}, workers {choice[1]}: {tried[choice]:.2f}/s")
        best = max(tried, key=lambda one: tried[one])
        with rivals.Processes() as processes, measure.served(places[0]) as server:
            port = rivals.plain(processes, *best, pipelines.SIDE, PADDING)
            sides = (("two plain services", port, "/ocr"), ("trimtab serve", server.port, "/v1/ocr"))
            for number in range(rounds + 1):
                for name, at, path in sides:
                    rate = _rate(at, path, files, order if number else warm)
                    if number:  # the first round warms
                        rates[name].append(rate)
                        say(f"{name}: {rate:.2f}/s")
        rows: list[dict[str, Any]] = [
            {"work": f"mix over HTTP: {name}", "pictures/s": statistics.median(values)}
            for name, values in rates.items()
        ]
        rows[0]["setting"] = f"{best[0]} threads, {best[1]} workers each"
        if not quick:  # shown beside; the published recipe pads
            with rivals.Processes() as processes:
                port = rivals.plain(processes, *best, pipelines.SIDE, 48)
                _rate(port, "/ocr", files, warm)
                rate = _rate(port, "/ocr", files, order)
            rows.append({"work": "mix over HTTP: two plain services, no padding to 320", "pictures/s": rate})
    ratio = _ratio(rates["trimtab serve"], rates["two plain services"])
    return rows, [target("trimtab serve over the plain two services", ratio, least=1.8)], rates


def _rate(port: int, path: str, files: list[str], order: Sequence[int]) -> float:
    plan = load.Plan(port, files, [*order], clients=TOGETHER, path=path, keep=False, patience_s=300)
    seen = load.carry_out(plan)
    bad = [row["status"] for row in seen["seen"] if row["status"] != 200]
    if bad:
        raise RuntimeError(f"a service failed requests: {bad[:5]}")
    return len(order) / float(seen["wall_s"])


def _ratio(values: list[float], others: list[float]) -> float:
    return statistics.median(mine / theirs for mine, theirs in zip(values, others, strict=True))


def _right(name: str, reader: Any, pages: dict[int, list[Any]]) -> float:
    """Share of the lines of some pages that are read letter by letter, but for case and spaces."""
    there = found = 0
    for group in pages.values():
        for page in group[:2]:
            if isinstance(reader, Pipeline):
                texts = [item.text for item in rivals.one(reader, page.body).items]
            else:
                texts = reader(page.body)
            known = {_plain(text) for text in texts}
            there += len(page.lines)
            found += sum(_plain(line) in known for line in page.lines)
    return found / there


def _plain(text: str) -> str:
    # Pillow's font has one shape for l and I.
    return "".join(text.split()).lower().replace("i", "l")
