"""A recorded run is explained to within 5 %, at 3 % of its time, and predicted from its operators' shapes.

Work: greedy requests of 32 to 1024 tokens, 1, 8 and 32 together, with each type of cache. In every cell the
operators of a step sum to the step, the parts of the engine's loop to the time that a clock outside saw, and
the categories of memory to what is resident. The prediction of a step is the sum over its operators of
max(operations / rate, bytes / rate) + fixed cost, with rates measured minutes before on a reference model of
other sizes; a count of operations at the processor's peak is what it is held against. The recorder's cost is
by turns: on and off in one engine, and off against a build in which it does not exist. Over HTTP, requests
arrive at three rates at trimtab, llama.cpp's server and vLLM's; trimtab's stages are held against each
request's latency as its client saw it. Training is `bench dissect-train`; several GPUs are not here.
"""

from __future__ import annotations

import operator
import random
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from load import arrivals, stages
from load.goodput import Body
from load.phases import on_over_off
from native import programs
from peers import record, roster, servers
from trimtab import _native
from trimtab.errors import TrimtabError
from trimtab.machine import peers, profile, quiet, sections
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.dissect.operator_rates import errors
from trimtab.machine.report import Report
from trimtab.machine.worker import Worker

CLAIM = (__doc__ or "").partition("\n")[0]
HERE = Path(__file__).resolve().parent
PROMPTS, BATCHES, CACHES = (32, 128, 512, 1024), (1, 8, 32), ("bf16", "int8", "f32")
GRID_ROUNDS = 2
MOST_PROMPT_TOKENS = 17_000  # of a cell; 32 prompts of 1024 take half a minute and show nothing else
TOKENS, ROWS = 24, 450
# The recorder: rounds of so many tokens, switched every so often; loads of each of two builds.
ROUNDS, TURN_TOKENS, PHASE_S, LOADS, LOAD_ROUNDS = 12, 256, 0.04, 6, 6
RATES = (0.5, 1.0, 1.5)
REQUESTS = 32
CONTEXT = 704


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)
    say = roster.say_of(options)
    cells = _grid(task, say)
    costs = _recorder_cost(task, say)
    served, absent = _serving(task, say)
    result = _result(cells, costs, served)
    samples = {"cells": cells, "recorder": costs, "serving": served}
    return record.report(task, "dissect", CLAIM, samples=samples, result={**result, "absent": absent})


# --- the grid ---------------------------------------------------------------------------------------------


def _grid(task: roster.Task, say: Callable[[str], None]) -> list[dict[str, Any]]:
    options = task.options
    cells: list[dict[str, Any]] = []
    quick = options.quick
    ceilings = _profile(say)
    for kv_type in CACHES[:1] if quick else CACHES:
        quiet.wait(0 if quick else options.patience_seconds)
        with closing(_cell_worker()) as worker:
            say(f"rates of the operators, cache {kv_type}")
            rates = worker.call("rates", kv_type=kv_type, threads=task.threads, quick=quick)
        with closing(_cell_worker()) as worker:
            worker.call("ceilings", profile=str(ceilings), threads=task.threads)
            worker.call(
                "load", model=str(task.model), threads=task.threads, sequences=32, positions=1200,
                kv_type=kv_type,
            )  # fmt: skip
            worker.call("batch", prompts=task.windows(0, 2, 64), tokens=8)  # touch everything once
            shapes = [
                (prompt, batch)
                for prompt in ((32, 128) if quick else PROMPTS)
                for batch in (BATCHES[:2] if quick else BATCHES)
                if prompt * batch <= MOST_PROMPT_TOKENS
            ]
            found: dict[tuple[int, int], list[dict[str, Any]]] = {shape: [] for shape in shapes}
            for number in range(1 if quick else GRID_ROUNDS):
                for prompt, batch in shapes:
                    prompts = task.windows(prompt + batch + number, batch, prompt)
                    tokens = TOKENS + -(-prompt * batch // ROWS)  # the first still runs when the last begins
                    cell = worker.call("cell", prompts=prompts, tokens=tokens, rates=rates)
                    found[prompt, batch].append(cell)
                    say(f"{kv_type}, {batch} x {prompt}: {cell['engine_of_outside']:.1%} explained")
            cells += [
                {"kv_type": kv_type, "prompt": prompt, "batch": batch, **_calmest(rounds)}
                for (prompt, batch), rounds in found.items()
            ]
    return cells


def _calmest(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One cell out of several rounds, minutes apart: what others on the host take comes in stretches.

    Each stage is the round's in which it was fastest; closures are the worst of all rounds.
    """

    def worst(rows: Sequence[dict[str, Any]], key: str) -> float:
        return max((float(each[key]) for each in rows), key=lambda closure: abs(closure - 1))

    stages = [
        {
            **min(found, key=lambda row: float(row["measured_s"])),
            "modules_of_step": worst(found, "modules_of_step"),
        }
        for found in zip(*(each["stages"] for each in rounds), strict=True)
    ]
    closures = {key: worst(rounds, key) for key in ("engine_of_outside", "memory")}
    return {**rounds[0], "stages": stages, **closures}


def _profile(say: Callable[[str], None]) -> Path:
    """The machine profile; the ceilings it lacks are measured now, coarsely."""
    place = profile.default_path()
    known = profile.Profile.load(place).sections if place.exists() else {}
    for name in ("bandwidth", "peak"):
        if name not in known:
            measurer = sections.SECTIONS[name]
            with profile.watched() as watch:
                data = measurer.load()(quick=True, say=say)
            profile.update(name, watch.section(data), place)
    return place


# --- what the recorder costs ------------------------------------------------------------------------------


def _recorder_cost(task: roster.Task, say: Callable[[str], None]) -> list[dict[str, Any]]:
    quick = task.options.quick
    rows = []
    with closing(_cell_worker()) as worker:
        worker.call("load", **_recorded(task))
        for batch in BATCHES[:2]:
            say(f"recorder on and off, {batch} together")
            quiet.wait(0 if quick else task.options.patience_seconds)
            ratios: list[float] = []
            for number in range(1 if quick else ROUNDS):
                prompts = task.windows(number, batch, 32)
                found = worker.call("turns", prompts=prompts, tokens=TURN_TOKENS, phase_s=PHASE_S)
                ratios += on_over_off(found["ends"], found["switched"])
            ratio = statistics.median(ratios)
            rows.append({"what": "on over off", "batch": batch, "ratio": ratio, "ratios": ratios})
    if quick:
        return rows
    try:
        without = programs.without_recorder(say)
    except TrimtabError as error:
        say(f"not built without the recorder: {error.message}")
        return rows
    return [*rows, *_off_over_without(task, without, say)]


def _off_over_without(task: roster.Task, without: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Two builds by turns, each at its best of several loads.

    Where a process and its program lie in memory is luck and makes more of a difference than what is looked
    for: even the same build loaded twice differs by some percent. So they are loaded anew, each time from
    files of their own, in turns as to which is first.
    """
    modules = {"off": Path(str(_native.__file__)), "without": without}
    steps: dict[tuple[str, int], list[float]] = {}
    for load in range(LOADS):
        say(f"recorder off and not there, load {load + 1} of {LOADS}")
        names = sorted(modules, reverse=bool(load % 2))
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            workers = {
                name: stack.enter_context(closing(_module_worker(_copied(modules[name], folder / name))))
                for name in names
            }
            for worker in workers.values():
                worker.call("load", **_recorded(task))
            quiet.wait(task.options.patience_seconds)
            for batch in BATCHES[:2]:
                turns: dict[str, list[float]] = {name: [] for name in names}
                for number in range(LOAD_ROUNDS + 1):
                    prompts = task.windows(number, batch, 32)
                    for name in names if number % 2 else names[::-1]:
                        turns[name].append(_step_seconds(workers[name], prompts))
                for name in names:  # the first touches everything once
                    steps.setdefault((name, batch), []).append(statistics.median(turns[name][1:]))
    rows = []
    for batch in BATCHES[:2]:
        off, none = steps["off", batch], steps["without", batch]
        rows.append({
            "what": "off over without", "batch": batch, "ratio": min(off) / min(none),
            "ratios": list(map(operator.truediv, off, none)),
        })  # fmt: skip
    return rows


def _copied(module: Path, folder: Path) -> Path:
    folder.mkdir()
    return Path(shutil.copy(module, folder))


def _step_seconds(worker: Worker, prompts: list[list[int]]) -> float:
    ends = worker.call("times", prompts=prompts, tokens=TOKENS)["ends"]
    return statistics.median(map(operator.sub, ends[1:], ends))


def _recorded(task: roster.Task) -> dict[str, Any]:
    return {
        "model": str(task.model), "threads": task.threads, "sequences": 8, "positions": 320,
        "token_times": True,
    }  # fmt: skip


def _cell_worker() -> Worker:
    return Worker("trimtab", [sys.executable, str(HERE / "peers" / "serve_cell.py")])


def _module_worker(module: Path) -> Worker:
    return Worker("trimtab", [sys.executable, str(HERE / "peers" / "other_executor.py"), str(module)])


# --- serving ----------------------------------------------------------------------------------------------


def _serving(task: roster.Task, say: Callable[[str], None]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    options = task.options
    rows: list[dict[str, Any]] = []
    absent: dict[str, str] = {}
    rates, count = ((2.0,), 8) if options.quick else (RATES, REQUESTS)
    for name, make in _field(options).items():
        try:
            server, file = make(task)
            with servers.Running(server, file, task.threads) as running:
                running.wait(600)
                body = _bodies(task, running.model_name())
                coming = arrivals.synthetic("poisson", count, roster.SEED)
                stages.offered(running.port, 4.0, coming[:6], body, recorded=False)  # warms it
                for rate in rates:
                    quiet.wait(0 if options.quick else min(10.0, options.patience_seconds))
                    row = stages.offered(running.port, rate, coming, body, recorded=name == roster.OURS)
                    rows.append({"server": name, **row})
                    say(
                        f"{name}, {rate:g} requests/s: TTFT {row['ttft_s']['p50'] * 1e3:.0f} ms, "
                        f"TPOT {row['tpot_s']['p50'] * 1e3:.1f} ms"
                    )
        except TrimtabError as error:
            absent[name] = error.message
            say(f"{name} did not run: {error.message}")
    return rows, absent


def _field(options: BenchOptions) -> dict[str, Callable[[roster.Task], tuple[servers.Server, Path]]]:
    field: dict[str, Callable[[roster.Task], tuple[servers.Server, Path]]] = {
        roster.OURS: lambda task: (servers.trimtab(), task.model)
    }
    if not options.quick:
        field["llama.cpp llama-server"] = lambda task: (servers.llama_server(8, CONTEXT), task.model)
        field["vLLM CPU"] = lambda task: (
            servers.vllm(roster.environment_of("vllm_cpu")),
            roster.artefact(task.model, [("transformers", "hf")], roster.say_of(options)),
        )
    wanted = options.wanted
    titles = {peer: peers.PEERS[peer].title for peer in ("llama_server", "vllm_cpu")}
    if wanted:
        kept = {roster.OURS, *(title for peer, title in titles.items() if peer in wanted)}
        field = {name: make for name, make in field.items() if name in kept}
    return field


def _bodies(task: roster.Task, model: str) -> Body:
    """Bodies whose prompts no server has seen: a random word before a stretch of the text."""
    draw = random.Random(f"{roster.SEED} {model}")
    with closing(roster.open_source(task.model)) as source:
        tokenizer = roster.load_tokenizer(source)

    def make(number: int, arrival: arrivals.Arrival) -> dict[str, Any]:
        word = "".join(draw.choices("bcdfghjklmnpqrstvwxz", k=6))
        length = max(2, arrival.prompt_tokens - 6)
        at = draw.randrange(len(task.tokens) - length)
        return {
            "model": model, "prompt": f"{word} {tokenizer.decode(task.tokens[at : at + length])}",
            "max_tokens": arrival.output_tokens, "temperature": 0.7, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip

    return make


# --- the result -------------------------------------------------------------------------------------------


def _result(
    cells: Sequence[dict[str, Any]], costs: Sequence[dict[str, Any]], served: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    parts = [stage for cell in cells for stage in cell["stages"]]
    measured = [part["measured_s"] for part in parts]
    predicted = errors([part["predicted_s"] for part in parts], measured)
    by_flops = errors([part["by_flops_s"] for part in parts], measured)
    closures = {
        "operators of a step": [part["modules_of_step"] for part in parts],
        "engine's loop of the time outside": [cell["engine_of_outside"] for cell in cells],
    }
    targets = []
    for what, values in closures.items():
        targets.append(target(f"{what}, lowest of {len(values)} cells", min(values), least=0.95))
        targets.append(target(f"{what}, highest", max(values), most=1.05))
    worst = max(abs(cell["memory"] - 1) for cell in cells)
    targets.append(target("memory: categories off what is resident, worst cell", worst, most=0.10))
    for row in costs:
        most = 1.03 if row["what"] == "on over off" else 1.01
        targets.append(target(f"recorder {row['what']}, {row['batch']} together", row["ratio"], most=most))
    targets += [
        target("predicted step time, median error", predicted["median"], most=0.15),
        target("predicted step time, worst error", predicted["worst"], most=0.35),
        target("by arithmetic alone, times the error", by_flops["median"] / predicted["median"], least=2.0),
    ]
    for row in served:
        if "explained" in row:
            off = abs(row["explained"] - 1), abs(row["explained_first"] - 1)
            what = f"{row['rate']:g} requests/s: stages off"
            targets.append(target(f"{what} the latency seen", off[0], most=0.05))
            targets.append(target(f"{what} the TTFT seen", off[1], most=0.05))
    on = next(row for row in costs if row["what"] == "on over off")
    return {
        "ratio": by_flops["median"] / predicted["median"],
        "unit": "times the error of the prediction that a count of operations makes",
        "limit_fraction": None,
        "quality": None,
        "samples": on["ratios"],
        "prediction": {"errors": predicted, "errors_by_flops": by_flops},
        "targets": targets,
        "table": [*_cell_rows(cells), *_served_rows(served)],
        "chart": _chart(served),
    }


def _cell_rows(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "cell": f"{cell['kv_type']}, {cell['batch']} x {cell['prompt']}", "stage": part["stage"],
            "ms": part["measured_s"] * 1e3, "predicted": part["predicted_s"] / part["measured_s"],
            "by flops": part["by_flops_s"] / part["measured_s"], "operators": part["modules_of_step"],
            "engine": cell["engine_of_outside"], "memory": cell["memory"],
        }
        for cell in cells
        for part in cell["stages"]
    ]  # fmt: skip


def _served_rows(served: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for row in served:
        told = {
            "cell": f"{row['server']}, {row['rate']:g} requests/s",
            "TTFT p50 ms": row["ttft_s"]["p50"] * 1e3, "TTFT p99 ms": row["ttft_s"]["p99"] * 1e3,
            "TPOT p50 ms": row["tpot_s"]["p50"] * 1e3, "TPOT p99 ms": row["tpot_s"]["p99"] * 1e3,
        }  # fmt: skip
        if "stages" in row:
            told["stages ms"] = {name: round(value * 1e3, 2) for name, value in row["stages"].items()}
            told |= {"explained": row["explained"], "explained TTFT": row["explained_first"]}
        rows.append(told)
    return rows


def _chart(served: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Latencies as cumulative distributions at the middle rate."""
    rates = sorted({row["rate"] for row in served})
    middle = rates[len(rates) // 2] if rates else None
    series = {
        row["server"]: [[value, (place + 1) / len(row["ttft"])] for place, value in enumerate(row["ttft"])]
        for row in served
        if row["rate"] == middle
    }
    return {"x": f"TTFT in seconds at {middle} requests/s", "y": "share of requests", "series": series}
