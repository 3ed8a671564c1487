"""With the smallest `--memory` it accepts, 64 requests at once all finish correctly inside the promise.

Work: the server is asked for far too little, names the smallest budget, and is started with that one. 64
clients then send a prompt of 900 tokens each at the same moment and read 100 greedy tokens. Correct means:
the same text as the same request gets alone. The promise is kept when the process's highest resident
memory, by the kernel's own count, never passes it. No peer promises memory, so none is compared.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from peers import record, roster, servers
from trimtab.engine.budget import parse_size
from trimtab.errors import UsageError
from trimtab.formats.source import open_source
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.report import Report
from trimtab.models.tokenizer import load_tokenizer

CLAIM = (__doc__ or "").partition("\n")[0]
PROMPT, OUTPUT, REQUESTS = 900, 100, 64
ALONE = 4  # requests that are also run by themselves; each costs a start-up's worth of time
LONGEST_SECONDS = 3_000


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)
    count = 8 if options.quick else REQUESTS
    smallest = smallest_budget(task.model)
    promised = parse_size(smallest)
    tokenizer = load_tokenizer(open_source(task.model))
    prompts = [tokenizer.decode(window) for window in task.windows(0, count, PROMPT - 4)]
    server = servers.trimtab("--memory", smallest, "--max-queue", str(count), "--max-wait-seconds", "0")
    with servers.Running(server, task.model, task.threads) as running:
        running.wait(120)
        name = running.model_name()
        bodies = [
            {"model": name, "prompt": prompt, "max_tokens": OUTPUT, "temperature": 0} for prompt in prompts
        ]
        alone = [_ask(running.port, body) for body in bodies[:ALONE]]
        start = time.perf_counter()
        with ThreadPoolExecutor(count) as clients:
            together = list(clients.map(lambda body: _ask(running.port, body), bodies))
        seconds = time.perf_counter() - start
        peak = running.resident_bytes("VmHWM")
    failed = [answer for answer in together if isinstance(answer, str)]
    differing = sum(
        one != many for one, many in zip(map(_text, alone), map(_text, together[:ALONE]), strict=True)
    )
    targets = [
        target("requests that failed", len(failed), most=0),
        target("answers that differ from the same request alone", differing, most=0),
        target("highest resident bytes over the promise", peak / promised, most=1.0),
    ]
    result: dict[str, Any] = {
        "ratio": promised / peak,
        "unit": "times the highest resident bytes that were promised",
        "limit_fraction": peak / promised,
        "quality": {"differing": differing, "compared": ALONE},
        "samples": [answer.total_s for answer in together if not isinstance(answer, str)],
        "promised_bytes": promised,
        "peak_bytes": peak,
        "seconds": seconds,
        "failures": failed[:3],
        "targets": targets,
        "table": [{
            "--memory": smallest, "requests": count, "finished": count - len(failed),
            "peak MB": peak / 1e6, "seconds": seconds,
        }],
    }  # fmt: skip
    return record.report(task, "memory", CLAIM, samples={"seconds": result["samples"]}, result=result)


def smallest_budget(model: Path) -> str:
    """What `trimtab serve` says when it gets too little.

    Raises
    ------
    UsageError : it names no budget
    """
    command = [sys.executable, "-c", "from trimtab.cli.main import main; main()", "serve", str(model)]
    told = subprocess.run(
        [*command, "--memory", "1MB", "--port", "0"], capture_output=True, text=True, timeout=120, check=False
    ).stderr
    found = re.search(r"--memory[= ]([0-9.]+ ?[kKMGT]?i?B)", told.partition("smallest")[2])
    if found is None:
        raise UsageError(f"the refusal names no smallest budget: {told.strip()[-300:]}")
    return found.group(1).replace(" ", "")


def _ask(port: int, body: dict[str, Any]) -> servers.Answer | str:
    """The answer, or why there is none."""
    try:
        answer = servers.complete(port, body, timeout=LONGEST_SECONDS)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return answer if answer.text else "empty answer"


def _text(answer: servers.Answer | str) -> str:
    return answer if isinstance(answer, str) else answer.text
