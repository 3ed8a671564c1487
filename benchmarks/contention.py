"""With a busy process on one of two cores, throughput falls by no more than 2.5 times.

Work: one sequence decodes 128 tokens, and 8 sequences decode together, each with the machine to itself and
with a process that never rests pinned to one core, in alternating rounds. Half of the machine is gone, so 2
is the best that fixed halves of the work can do; spinning at barriers is what makes others fall much
further. llama.cpp Q4_0 runs beside it, with the same number of threads.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peers import record, roster
from trimtab.machine import quiet
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.report import Report
from trimtab.machine.rounds import Contest
from trimtab.machine.worker import WorkerFailed

CLAIM = (__doc__ or "").partition("\n")[0]
MOST = 2.5
RIVAL = "llama.cpp Q4_0"
WORKS = {"decode": 1, "batch 8": 8}


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)
    leave = [entry.title for entry in roster.ROSTER if entry.title != RIVAL]
    samples: dict[str, dict[str, list[float]]] = {}
    with roster.contest(task, sequences=max(WORKS.values()), positions=320, leave=leave) as contest:
        for number in range(options.rounds + 1):
            for label, count in WORKS.items():
                arguments = _arguments(task, number, count, 32 if options.quick else 128)
                for crowded in (False, True):
                    if not options.quick:
                        quiet.wait(options.patience_seconds)
                    with _busy(crowded):
                        for name, value in _measure(contest, arguments).items():
                            if number:  # the first round warms up
                                kinds = samples.setdefault(f"{name}, {label}", {"free": [], "crowded": []})
                                kinds["crowded" if crowded else "free"].append(value)
        rows, targets = [], []
        for title, kinds in samples.items():
            free, crowded_rate = (statistics.median(kinds[kind]) for kind in ("free", "crowded"))
            rows.append({
                "contender": title, "free tok/s": free, "crowded tok/s": crowded_rate,
                "falls by": free / crowded_rate,
            })  # fmt: skip
            if title.startswith(roster.OURS):
                targets.append(target(f"{title}: falls by times", free / crowded_rate, most=MOST))
        result = {
            "ratio": _ratio(rows),
            "unit": f"times that {RIVAL} falls by over what trimtab falls by, the worse of the two works",
            "limit_fraction": None,
            "quality": None,
            "samples": samples.get(f"{roster.OURS}, decode"),
            "targets": targets,
            "table": rows,
        }
        return record.report(task, "contention", CLAIM, contest=contest, samples=samples, result=result)


def _ratio(rows: list[dict[str, Any]]) -> float | None:
    falls = {row["contender"]: row["falls by"] for row in rows}
    pairs = [(falls.get(f"{RIVAL}, {work}"), falls.get(f"{roster.OURS}, {work}")) for work in WORKS]
    return min((theirs / ours for theirs, ours in pairs if theirs and ours), default=None)


def _arguments(task: roster.Task, number: int, count: int, tokens: int) -> dict[str, Any]:
    return {"prompts": task.windows(number, count, 32), "tokens": tokens}


def _measure(contest: Contest, arguments: dict[str, Any]) -> dict[str, float]:
    """Generated tokens per second, prompts included, by contender."""
    rates: dict[str, float] = {}
    for name, worker in list(contest.workers.items()):
        try:
            answer = worker.call("batch", **arguments)
        except WorkerFailed as error:
            contest.absent[name] = error.message
            contest.workers.pop(name).close()
            continue
        rates[name] = answer["tokens"] / answer["seconds"]
    return rates


@contextmanager
def _busy(wanted: bool) -> Iterator[None]:
    """A process that never rests, on the first processor that this one may use."""
    if not wanted:
        yield
        return
    first = min(os.sched_getaffinity(0))
    code = f"import os\nos.sched_setaffinity(0, {{{first}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            time.sleep(0.2)
            yield
        finally:
            process.kill()
