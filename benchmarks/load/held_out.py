"""Prompts and outputs that were never timed: predicted, measured, and beside the published model."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from load import calm
from load.timing import SEED, inside, timed
from trimtab.evaluate.calibration import OUTPUTS, QUICK_OUTPUTS, Calibration
from trimtab.evaluate.llm import prior_of, warm_up
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.requests.baseline import published

SHORT = (3, 17, 40, 100)
LONG = 1500  # from here on a constant cost a token shows
PAIRS, TRIALS = 110, 2
PATIENCE_S = 120.0

Say = Callable[[str], None]


def measure(options: BenchOptions, say: Say) -> dict[str, Any]:
    draw, trials = random.Random(SEED), 1 if options.quick else TRIALS
    pairs = _pairs(draw, 12 if options.quick else PAIRS)
    work = [pair for _ in range(trials) for pair in draw.sample(pairs, len(pairs))]
    short_every = max(1, len(work) // (4 if options.quick else 12))
    with inside(options) as engine:
        calibration = Calibration(
            engine, avoid=SHORT, seed=SEED, prior=prior_of(engine), budget_s=6 if options.quick else 300,
            outputs=QUICK_OUTPUTS if options.quick else OUTPUTS,
        )  # fmt: skip
        warm_up(engine, calibration)
        quiet = calm.Calm(calm.decoding(engine.run, SEED), 2 if options.quick else PATIENCE_S)
        held: dict[tuple[int, int], list[tuple[float, float]]] = {pair: [] for pair in pairs}
        short: dict[int, list[float]] = {prompt: [] for prompt in SHORT}
        every = max(1, len(work) // 75)
        for number, (prompt, output) in enumerate(work):
            quiet.wait()
            held[prompt, output].append(timed(engine, calibration, prompt, output))
            if number % every == 0:
                quiet.wait()
                calibration.step()
            if number % short_every == 0:
                for length in SHORT:
                    times = [timed(engine, calibration, length, 1)[0] for _ in range(trials)]
                    short[length].append(min(times))
            if number % 25 == 0:
                say(
                    f"held out {number}/{len(work)}; calibration {calibration.runs} runs; "
                    f"waited {quiet.waited_s:.0f} s"
                )
        while calibration.step():
            quiet.wait()
        model = calibration.fit()
        prior = prior_of(engine)
    theirs, ours = published(calibration.samples), model.fits[1]
    measured = {pair: min(total for _, total in times) for pair, times in held.items()}
    errors = {pair: ours.total_s(*pair) / seconds - 1 for pair, seconds in measured.items()}
    biases = {pair: theirs.total_s(*pair) / seconds - 1 for pair, seconds in measured.items()}
    sizes = np.abs(list(errors.values()))
    long = [pair for pair in measured if pair[0] >= LONG and pair[1] >= 64]
    steps = {pair: min(total - first for first, total in held[pair]) for pair in long}
    bias = abs(statistics.fmean(theirs.beta_s * (o - 1) / steps[p, o] - 1 for p, o in long))
    bias_total = statistics.fmean(biases[pair] for pair in long)
    own_bias = abs(statistics.fmean(ours.decode_s(p, o) / steps[p, o] - 1 for p, o in long))
    shorts = {p: ours.alpha.at(p) / min(times) - 1 for p, times in short.items()}
    scaled = {p: theirs.alpha_s(p) / min(times) - 1 for p, times in short.items()}
    say(f"mean error {sizes.mean():.1%}, 95 % {np.quantile(sizes, 0.95):.1%}; constant cost {bias:.1%} off")
    table = [
        {"part": "held out", "model": name, "pairs": len(measured), "mean error": _mean_size(found),
         "95 %": float(np.quantile(np.abs(list(found.values())), 0.95)),
         "bias": statistics.fmean(found.values()),
         "bias from 1500 tokens": statistics.fmean(found[pair] for pair in long)}
        for name, found in (("alpha, beta, gamma", errors), ("published, constant beta", biases))
    ]  # fmt: skip
    table += [
        {"part": "short prompts", "model": name, **{f"p = {p}": found[p] for p in SHORT}}
        for name, found in (("alpha, beta, gamma", shorts), ("published, scaled next key", scaled))
    ]
    return {
        "mean error": float(sizes.mean()),
        "limit_fraction": prior.fits[1].total_s(512, 128) / ours.total_s(512, 128) if prior else None,
        "targets": [
            target("held-out pairs", len(measured), least=12 if options.quick else 100),
            target("runs of the calibration", calibration.runs, most=70),
            target("seconds of the calibration", calibration.spent_s, most=300),
            target("held-out pairs, mean error", float(sizes.mean()), most=0.05),
            target("held-out pairs, 95th percentile", float(np.quantile(sizes, 0.95)), most=0.12),
            target("published cost a token from 1500 tokens, bias of decoding", bias, least=0.10),
            target("ours there", own_bias, most=0.10),
            target("prompts of 3 to 100 tokens, worst error", max(map(abs, shorts.values())), most=0.08),
            target("published rule at 3 tokens, underestimate", -scaled[3], least=0.08),
        ],
        "table": table,
        "samples": {
            "calibration": calibration.report()["samples"],
            "held": [[*pair, times] for pair, times in held.items()],
            "short": {str(p): times for p, times in short.items()},
            "fit": model.to_json(),
            "published bias of the whole from 1500 tokens": bias_total,
            "waited_s": quiet.waited_s,
            "restless": quiet.restless,
        },
    }  # fmt: skip


def _pairs(draw: random.Random, count: int) -> list[tuple[int, int]]:
    """Lengths of all magnitudes: even in logarithms, even in tokens, and a fifth long with long outputs."""
    found: set[tuple[int, int]] = set()
    while len(found) < count:
        kind = len(found) % 5
        if kind == 0:
            pair = draw.randint(LONG, 1920), draw.randint(64, 256)
        elif kind % 2:
            pair = round(1920 ** draw.random()), round(256 ** draw.random())
        else:
            pair = draw.randint(1, 1920), round(256 ** draw.random())
        if pair[0] not in SHORT:
            found.add(pair)
    return sorted(found)


def _mean_size(found: dict[Any, float]) -> float:
    return statistics.fmean(map(abs, found.values()))
