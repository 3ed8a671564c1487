"""HTTP, streaming and tokenization together cost at most 5 % of the engine's throughput at 32 streams.

Work: 32 prompts of 128 tokens each, 128 greedy tokens for each, all at once; generated tokens over the whole
wall time, prompts included. On one side the engine alone, in a process that hands it tokens and reads them
when all is done; on the other `trimtab serve`, which gets 32 streamed requests with the text of the same
prompts, from a client process on the same processors. Alternating rounds; the other side is stopped in each.
Target: at least 0.95 of the engine's throughput.
"""

from __future__ import annotations

import os
import signal
import statistics
from typing import Any

from load import goodput
from load.generator import Plan
from peers import record, roster, servers
from trimtab.machine import probe, quiet
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.report import Report
from trimtab.machine.rounds import spread
from trimtab.models.tokenizer import load_tokenizer

CLAIM = (__doc__ or "").partition("\n")[0]
STREAMS, PROMPT, TOKENS = 32, 128, 128
LEAST = 0.95


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)
    tokens = 32 if options.quick else TOKENS
    source = roster.open_source(task.model)
    tokenizer = load_tokenizer(source)
    source.close()
    rates: dict[str, list[float]] = {"engine alone": [], "over HTTP": []}
    shares: list[float] = []
    with (
        roster.start(roster.OURS) as worker,
        servers.Running(servers.trimtab("--context", "1024"), task.model, task.threads) as server,
    ):
        server.wait(60)
        name = server.model_name()
        _pause(server, True)
        worker.call(
            "load", model=str(task.model), threads=task.threads, sequences=STREAMS,
            positions=PROMPT + tokens + 16, drafting=True,
        )  # fmt: skip
        for number in range(options.rounds + 1):  # the first one warms
            quiet.wait(0 if options.quick else options.patience_seconds)
            prompts = task.windows(number, STREAMS, PROMPT)
            texts = [tokenizer.decode(prompt) for prompt in prompts]
            for side in ("engine alone", "over HTTP") if number % 2 else ("over HTTP", "engine alone"):
                if side == "engine alone":
                    answer = worker.call("batch", prompts=prompts, tokens=tokens)
                    rate = answer["tokens"] / answer["seconds"]
                else:
                    _pause(server, False)
                    rate, share = _over_http(server.port, name, texts, tokens)
                    _pause(server, True)
                    shares.append(share)
                if number:
                    rates[side].append(rate)
    ratios = [http / alone for http, alone in zip(rates["over HTTP"], rates["engine alone"], strict=True)]
    ratio = statistics.median(ratios)
    rows = [
        {"side": side, "tok/s": statistics.median(values), "spread": spread(values)}
        for side, values in rates.items()
    ]
    result = {
        "ratio": ratio,
        "unit": "of the engine's own tokens/s, over HTTP with 32 streams",
        "limit_fraction": None,
        "quality": None,
        "samples": ratios,
        "client_cpu_share": statistics.median(shares),
        "targets": [target("tokens/s over HTTP, of the engine's own", ratio, least=LEAST)],
        "table": rows,
    }
    return record.report(task, "overhead", CLAIM, samples=rates, result=result)


def _over_http(port: int, model: str, texts: list[str], tokens: int) -> tuple[float, float]:
    """Tokens a second, and the client's share of one processor."""
    common = {
        "model": model, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    requests: list[tuple[float, dict[str, Any], int]] = [
        (0.0, {**common, "prompt": text}, tokens) for text in texts
    ]
    plan = Plan(port, requests, ttft_s=1e6, tpot_s=1e6, most_misses=len(requests), patience_s=600)
    answer = goodput.carry_out(plan)
    failed = {one["error"] for one in answer["seen"]} - {""}
    if failed:
        raise servers.ServerFailed(f"the server fails requests: {', '.join(sorted(failed))}")
    made = sum(one["tokens"] for one in answer["seen"])
    return made / max(one["total_s"] for one in answer["seen"]), answer["cpu_s"] / answer["wall_s"]


def _pause(server: servers.Running, stopped: bool) -> None:
    """Stop the server while the engine alone is measured, or let it go on."""
    for pid in probe.family(server.pid):
        os.kill(pid, signal.SIGSTOP if stopped else signal.SIGCONT)
