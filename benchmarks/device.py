"""Decode speed follows weight bytes over five widths; whether a model fits a memory limit is told beforehand.

Four claims of arXiv 2403.12844, each on the default model in 16 bits with its channels shuffled, so that no
group of 32 weights coincides with a group of the shipped 4-bit file (see `peers/gguf_copy.py`).

Memory: trimtab decodes and prefills at 16, 8.5, 8, 6, 5 and 4.5 bits a weight in alternating rounds. Decode
tokens/s is a straight line over 1/bytes (R^2 at least 0.95), reaches 0.7 of the memory's limit at every
width, and prefill's relative slope is below 30 % of decode's, over the five widths that are multiplied as
integers: 16 bits are multiplied by a unit of half the speed, which has nothing to do with bytes, so the slope
with them is shown beside. llama.cpp runs at F16, Q8_0, Q5_1, Q4_1 and Q4_0, made by its own tool.

Feasibility: five limits from 256 MiB to 2 GiB by five widths. The engine's arithmetic says fit or not before
anything runs; then the server is started in a control group of that size, without swap, and fills its
context. At least 24 of 25 must agree. The server's own check is set aside, so that the kernel decides.

Quality: 1000 word choices and 62 chunks of text. 4 bits stay within 2 points of 16, 2 bits lose clearly, and
a k-quant-like mix beats plain rounding at equal size; paired bootstrap intervals. The engine has no 2- and
3-bit formats yet: those rows have 2- and 3-bit levels in 4-bit storage, so their quality is real and their
size is not shown.

Accounting: events cover 97 to 103 % of a conversation's wall time, their energy sums to the total within 1 %,
and a watched run is at least 0.98 times as fast as a plain one. Energy is modelled here and says so; the GPU
claims (J/token from NVML, the model refitted on it) need a GPU and are not part of this.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from peers import gguf_copy, record, roster
from peers.record import Work
from trimtab.errors import TrimtabError
from trimtab.evaluate.device import accuracy, coordinator, feasibility, summary
from trimtab.evaluate.device.activity import Watcher
from trimtab.evaluate.device.chat import ChatSession
from trimtab.evaluate.device.driver import EngineFailed, Question
from trimtab.evaluate.device.engines import launch
from trimtab.evaluate.device.plan import Plan
from trimtab.formats.source import open_source
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.peers import home
from trimtab.machine.report import Report
from trimtab.machine.rounds import Ask, Contender, Contest, Race

CLAIM = (__doc__ or "").partition("\n")[0]
BITS = {"bf16": 16.0, "q8": 8.5, "q4/16": 6.0, "q4": 5.0, "q4-sym": 4.5}
WIDTHS = ("bf16", "q8", "int8", "q4/16", "q4", "q4-sym")
THEIRS = {"F16": None, "Q8_0": "q8_0", "Q5_1": "q5_1", "Q4_1": "q4_1", "Q4_0": "q4_0"}
LIMITS_MIB = (256, 344, 420, 512, 2048)
CONTEXT = 6144
TOKENS, PROMPT, LONG_PROMPT = 64, 32, 384
PAIRS = 100

Say = Callable[[str], None]


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)
    say = roster.say_of(options)
    files = home() / "files" / f"{task.model.stem}-shuffled"
    source = gguf_copy.made(files, "f16.gguf", lambda path: gguf_copy.off_grid(task.model, path))
    memory = _memory(task, source, options, say)
    fits = _feasibility(source, options, say)
    quality = _quality(source, files, options, say)
    events = _accounting(task.model, options, say)
    parts = (memory, fits, quality, events)
    result = {
        "ratio": memory["ratio"],
        "unit": "times llama.cpp's tokens/s at the same bits a weight, least of the widths",
        "limit_fraction": memory["limit_fraction"],
        "quality": quality["quality"],
        "samples": memory["samples"],
        "memory": memory["figures"],
        "feasibility": fits["cells"],
        "cost": quality["cost"],
        "accounting": events["figures"],
        "formats_not_there": ["2 bits", "3 bits"],
        "absent": memory["absent"],
        "targets": [each for part in parts for each in part["targets"]],
        "table": [row for part in parts for row in part["table"]],
    }
    races: Sequence[Race] = memory["races"]
    return record.report(task, "device", CLAIM, races=races, result=result)


# ---- memory-bound ----------------------------------------------------------------------------------


def _memory(task: roster.Task, source: Path, options: BenchOptions, say: Say) -> dict[str, Any]:
    common = {"threads": task.threads, "sequences": 1, "positions": 512}
    contenders = [
        _contender(f"trimtab {name}", "trimtab", source, {**common, "format": name}) for name in WIDTHS
    ]
    sizes: dict[str, float] = {}
    absent: dict[str, str] = {}
    widths = dict(list(THEIRS.items())[-1:] if options.quick else THEIRS.items())
    for title, form in widths.items():
        try:
            path = source if form is None else roster.artefact(source, [("llama_cpp", form)], say)
        except TrimtabError as error:
            absent[f"llama.cpp {title}"] = error.message
            continue
        sizes[f"llama.cpp {title}"] = _file_bytes(path)
        contenders.append(_contender(f"llama.cpp {title}", "llama_cpp", path, common))
    patience = 0 if options.quick else options.patience_seconds
    # Bandwidth changes within a round: many short runs tell more than a few long ones.
    rounds = 1 if options.quick else 2 * options.rounds + 2
    with Contest(contenders, limits=task.limits, patience_seconds=patience, say=say, keep="") as contest:
        for name in WIDTHS:
            sizes[f"trimtab {name}"] = contest.loaded[f"trimtab {name}"]["weight_bytes"]
        decode = contest.race(_ask(task, "decode", PROMPT, 16 if options.quick else TOKENS), rounds)
        prefill = contest.race(_ask(task, "prefill", LONG_PROMPT, None), rounds)
        absent |= contest.absent
    ours = [f"trimtab {name}" for name in WIDTHS]
    fractions = {name: _fraction(task, decode, name, sizes[name]) for name in ours}
    groups = {
        "trimtab": ours,
        "trimtab, integer": ours[1:],
        "llama.cpp": [name for name in decode.values if name.startswith("llama.cpp")],
    }
    lines = {
        group: {race.label: _line(race, sizes, names) for race in (decode, prefill)}
        for group, names in groups.items()
        if len(names) > 2
    }
    mine, integer = lines["trimtab"], lines["trimtab, integer"]
    pairs = [(f"trimtab {a}", f"llama.cpp {b}") for a, b in zip(BITS, THEIRS, strict=True)]
    ratios = {a: decode.ratio(a, b) for a, b in pairs if b in decode.values}
    rows = [
        {
            "part": "memory", "what": name, "weight MB": sizes[name] / 1e6,
            "decode tok/s": decode.median(name), "prefill tok/s": prefill.median(name),
            "of the limit": fractions.get(name),
        }
        for name in decode.values if name in prefill.values
    ]  # fmt: skip
    return {
        "ratio": min(ratios.values(), default=None),
        "limit_fraction": min(fractions.values()),
        "samples": decode.values.get("trimtab q4"),
        "figures": {"lines": lines, "limit_fractions": fractions, "bytes": sizes, "times_llama_cpp": ratios},
        "absent": absent,
        "races": [decode, prefill],
        "table": rows,
        "targets": [
            target("decode over 1/bytes, R^2", mine["decode"]["r2"], least=0.95),
            target("share of the memory's limit, least of all widths", min(fractions.values()), least=0.7),
            target(
                "prefill's relative slope over decode's, integer widths",
                integer["prefill"]["slope"] / integer["decode"]["slope"],
                most=0.3,
            ),
        ],
    }


def _contender(name: str, peer: str, file: Path, load: Mapping[str, Any]) -> Contender:
    return Contender(name, lambda: roster.start(peer), {"model": str(file), **load})


def _ask(task: roster.Task, label: str, prompt: int, tokens: int | None) -> Ask:
    def arguments(number: int) -> dict[str, Any]:
        asked: dict[str, Any] = {"prompt": task.windows(number, 1, prompt)[0]}
        return asked if tokens is None else {**asked, "tokens": tokens}

    return Ask(label, label, arguments, lambda answer: answer["tokens"] / answer["seconds"])


def _fraction(task: roster.Task, race: Race, name: str, weight_bytes: float) -> float:
    work = Work(task.config, int(weight_bytes))
    context = PROMPT + TOKENS / 2
    return race.limit_fraction(name, lambda limits, _: 1 / work.step_seconds(limits, 1, context))


def _line(race: Race, sizes: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The straight line of speed over 1/bytes; its slope is 1 relative to the means where all is memory."""
    x = [1 / sizes[name] for name in names]
    y = [race.median(name) for name in names]
    middle_x, middle_y = statistics.mean(x), statistics.mean(y)
    slope = statistics.linear_regression(x, y).slope
    return {
        "r2": statistics.correlation(x, y) ** 2,
        "slope": slope * middle_x / middle_y,
        "tokens_bytes_per_s": slope,
    }


def _file_bytes(path: Path) -> float:
    with closing(open_source(path)) as source:
        return float(sum(source.info(name).nbytes for name in source.names()))


# ---- feasibility -----------------------------------------------------------------------------------


def _feasibility(source: Path, options: BenchOptions, say: Say) -> dict[str, Any]:
    before = feasibility.process_bytes(source)
    limits = (256, 2048) if options.quick else LIMITS_MIB
    formats = ("q4",) if options.quick else tuple(BITS)
    context = 512 if options.quick else CONTEXT
    cells: list[dict[str, Any]] = []
    for name in formats:
        for mib in limits:
            told = feasibility.predict_fit(
                source, mib << 20, format=name, context=context, before_weights=before
            )
            try:
                answered, stopped = feasibility.try_fit(
                    source, mib << 20, format=name, context=context, threads=options.threads
                )
                happened = "fits" if answered else stopped.ending
            except EngineFailed as error:  # no verdict: it counts as a miss
                answered, happened = not told.fits, f"no verdict: {error.message[:80]}"
            cells.append({
                "format": name, "limit_mib": mib, "needed_mib": told.needed_bytes / 2**20,
                "predicted": "fits" if told.fits else "does not", "happened": happened,
                "right": told.fits == answered,
            })  # fmt: skip
            say(f"{name} in {mib} MiB: needs {told.needed_bytes >> 20}, {happened}")
    right = sum(cell["right"] for cell in cells)
    rows = [
        {
            "part": "fit", "what": name,
            "needs MiB": next(cell["needed_mib"] for cell in cells if cell["format"] == name),
            "right": sum(cell["right"] for cell in cells if cell["format"] == name),
            "fits": sum(cell["happened"] == "fits" for cell in cells if cell["format"] == name),
        }
        for name in formats
    ]  # fmt: skip
    wanted = len(cells) - (not options.quick)
    what = f"cells of {len(cells)} predicted rightly"
    return {"cells": cells, "table": rows, "targets": [target(what, right, least=wanted)]}


# ---- quality ---------------------------------------------------------------------------------------


def _quality(source: Path, files: Path, options: BenchOptions, say: Say) -> dict[str, Any]:
    def levels(bits: int) -> Path:
        return gguf_copy.made(files, f"levels{bits}.gguf", lambda path: gguf_copy.rounded(source, path, bits))

    mixed = gguf_copy.made(files, "mixed.gguf", lambda path: gguf_copy.mixed(source, path))
    judged: dict[str, tuple[Path, str]] = {"16 bits": (source, "bf16")}
    if not options.quick:
        judged |= {"8.5 bits": (source, "q8"), "6 bits": (source, "q4/16")}
    judged |= {"5 bits, plain": (source, "q4"), "5 bits, mixed 4 and 8": (mixed, "auto")}
    if not options.quick:
        judged |= {"4.5 bits": (source, "q4-sym"), "3-bit levels": (levels(3), "auto")}
    judged["2-bit levels"] = (levels(2), "auto")
    items, chunks = (40, 2) if options.quick else (accuracy.ITEMS, accuracy.DOCUMENTATION_CHUNKS)
    scores = {
        name: accuracy.score(path, format, items=items, chunks=chunks, say=say)
        for name, (path, format) in judged.items()
    }
    reference = scores["16 bits"]
    cost = {
        name: {
            "points": _scaled(accuracy.paired(one["right"], reference["right"]), 100),
            "nll": accuracy.paired(one["nll"], reference["nll"]).as_json(),
        }
        for name, one in scores.items()
        if name != "16 bits"
    }
    plain, better = scores["5 bits, plain"], scores["5 bits, mixed 4 and 8"]
    gain = accuracy.paired(better["nll"], plain["nll"])
    rows = [
        {
            "part": "quality", "what": name, "accuracy %": 100 * one["accuracy"],
            "perplexity": one["perplexity"],
            "points lost": -cost[name]["points"]["mean"] if name in cost else None,
        }
        for name, one in scores.items()
    ]  # fmt: skip
    four, two = cost["5 bits, plain"]["points"], cost["2-bit levels"]["points"]
    return {
        "quality": {name: {k: one[k] for k in ("accuracy", "perplexity")} for name, one in scores.items()},
        "cost": cost | {"mixed against plain, nll": gain.as_json(), "items": reference["digest"]},
        "table": rows,
        "targets": [
            target("points lost at 4 bits (5 with scales)", -four["mean"], most=2.0),
            target("points lost with 2-bit levels, low end of the interval", -two["high"], least=5.0),
            target("mixed against plain at equal size, nll, high end of the interval", gain.high, most=0.0),
        ],
    }


def _scaled(found: accuracy.Difference, factor: float) -> dict[str, float]:
    return {name: factor * value for name, value in found.as_json().items()}


# ---- accounting ------------------------------------------------------------------------------------


def _accounting(model: Path, options: BenchOptions, say: Say) -> dict[str, Any]:
    plan = Plan(
        models=[{"model": str(model)}], conversations=(0, 1 if options.quick else 3), repetitions=1,
        turns=2 if options.quick else None, max_tokens=64, settle_s=0, context=2048,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        (outcome,) = coordinator.run(plan, Path(folder), say)
        ratio, pairs = _watched(plan, model, 2 if options.quick else PAIRS)
    row = summary.summarised(outcome)
    low, high = row["event_closure"]
    targets = [
        target("events' share of the wall time, least", low, least=0.97),
        target("events' share of the wall time, most", high, most=1.03),
        target("watched over plain tokens/s", ratio, least=0.98),
    ]
    if row["energy_closure"] is not None:
        furthest = max(abs(each - 1) for each in row["energy_closure"])
        targets.append(target("events' energy beside the total, difference", furthest, most=0.01))
    return {
        "figures": {"row": row, "watched_over_plain": pairs},
        "targets": targets,
        "table": [{
            "part": "accounting", "what": "trimtab as shipped", "decode tok/s": row["decode_tokens_per_s"],
            "events %": 100 * low, "watched x": ratio, "energy": (row["energy"] or {}).get("source"),
        }],
    }  # fmt: skip


def _watched(plan: Plan, model: Path, number: int) -> tuple[float, list[list[float]]]:
    """Decode speed with counters and watcher over speed with a bare client, by turns; and all pairs."""
    (job,) = plan.jobs()
    driver: Any = coordinator.load_driver(job.device)
    pairs: list[list[float]] = []
    try:
        driver.prepare()
        session: ChatSession = driver.start(launch(job, model, threads=job.device.threads or 2, context=2048))
        number_of = driver.watcher.process
        driver.watcher.stop()
        chat = [{"role": "user", "content": "Tell me about the phases of the moon."}]
        for index in range(number + 1):
            both = {}
            for watched in (True, False) if index % 2 else (False, True):
                if not watched:
                    both[watched] = _plain_speed(session, chat)
                    continue
                watcher = Watcher(number_of).start()
                turn = session.ask(Question(chat, 64, forced=True))
                watcher.stop()
                both[watched] = summary.decode_speed(turn) or 0.0
            if index:  # the first pair warms up
                pairs.append([both[True], both[False]])
    finally:
        driver.stop()
        driver.discard()
    return statistics.median(a / b for a, b in pairs), pairs


def _plain_speed(session: ChatSession, chat: list[dict[str, str]]) -> float:
    """Tokens a second after the first, by a client that looks at nothing but the clock."""
    place = session.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(place[0], int(place[2]), timeout=300)
    body = {"model": session.model(), "messages": chat, "max_tokens": 64, "temperature": 0, "stream": True}
    body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    first = last = 0.0
    made = 0
    for line in response:
        if b'"content"' in line and b'"content":""' not in line and b'"role"' not in line:
            last = time.perf_counter()
            first = first or last
        if b'"completion_tokens"' in line:
            made = json.loads(line[5:])["usage"]["completion_tokens"]
    connection.close()
    return (made - 1) / (last - first)
