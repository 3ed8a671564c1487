"""A server under competing clients: what the minimum over trials recovers, and what the mean keeps."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from load.timing import SEED
from peers import roster, servers
from trimtab.evaluate.http_target import HttpTarget
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.requests.baseline import published_api
from trimtab.machine.requests.fit import Sample, fit

LOADED_TRIALS, THINK_S = 32, 0.9

Say = Callable[[str], None]


def measure(options: BenchOptions, say: Say) -> dict[str, Any]:
    points = [(p, o) for p in (1, 64, 256) for o in (1, 16, 48)]
    trials = 3 if options.quick else LOADED_TRIALS
    levels = (2,) if options.quick else (1, 2, 3)
    seen: dict[str, list[Sample]] = {"idle": []}
    task = roster.open_task(options)
    server = servers.trimtab("--no-sharing", "--no-drafting")
    with servers.Running(server, task.model, task.threads) as running:
        running.wait(120)
        address = HttpTarget(f"http://127.0.0.1:{running.port}")
        draw = random.Random(SEED)

        def rounds(name: str, count: int) -> None:
            for number in range(count):
                for prompt, output in draw.sample(points, len(points)):
                    tokens = draw.choices(range(300, 10_000), k=prompt)
                    times = address.run([tokens], output)
                    if times is not None:
                        seen[name].append(Sample(prompt, output, 1, *times))
                say(f"{name}: round {number + 1}/{count}")

        rounds("idle", 1)
        seen["idle"].clear()  # the first round warms up
        for level in levels:
            rounds("idle", max(2, trials // 4))
            name = f"{level} competing"
            seen[name] = []
            command = [
                sys.executable,
                str(Path(__file__).parent / "competing.py"),
                str(running.port),
            ]
            with subprocess.Popen(
                [*command, address.served, str(level), str(THINK_S), str(SEED + level)]
            ) as clients:
                try:
                    rounds(name, trials)
                finally:
                    clients.kill()
        rounds("idle", max(2, trials // 4))
    idle = published_api(seen["idle"]).beta_s
    table, targets, below, compared = [], [], 0, 0
    for name, samples in seen.items():
        least, mean = published_api(samples), published_api(samples, "mean")
        table.append({
            "part": "denoised", "model": name, "requests": len(samples), "trials": trials,
            "beta of minimum, ms": least.beta_s * 1e3, "beta of mean, ms": mean.beta_s * 1e3,
            "minimum off": least.beta_s / idle - 1, "mean off": mean.beta_s / idle - 1,
        })  # fmt: skip
        if name == "idle":
            continue
        fitted = fit(samples).fits[1]
        for prompt, output in points:
            raw = statistics.fmean(s.total_s for s in samples if (s.prompt, s.output) == (prompt, output))
            below += raw < fitted.total_s(prompt, output)
            compared += 1
        targets.append(
            target(f"{name}: minimum over {trials} trials, beta off", abs(least.beta_s / idle - 1), most=0.07)
        )
        targets.append(target(f"{name}: mean over trials, beta off", abs(mean.beta_s / idle - 1), least=0.25))
    targets.append(target("share of points with raw below denoised", below / compared, most=0.05))
    return {
        "targets": targets,
        "table": table,
        "samples": {
            name: [[s.prompt, s.output, s.first_s, s.total_s] for s in own] for name, own in seen.items()
        },
    }
