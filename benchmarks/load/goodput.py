"""Goodput: the highest rate at which 99 of 100 requests meet the objective, found by trying rates.

A trial offers a fixed number of requests at one rate and counts those that were in time; a refusal or an
error is a miss. A search brackets the goodput and halves the bracket in the logarithm of the rate.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load.arrivals import Arrival
from load.generator import Plan

GENERATOR = Path(__file__).with_name("generator.py")
SHARE = 0.99
GIVEN_UP = 0.3
"""A trial ends when this share of its requests has missed: the curve needs no more."""
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request must be: its first text in time, and the rest no slower than this."""

    ttft_s: float
    tpot_s: float

    def __str__(self) -> str:
        return f"TTFT {self.ttft_s:g} s, TPOT {self.tpot_s * 1e3:g} ms"


@dataclass(frozen=True, slots=True)
class Trial:
    """What came out of one rate.

    Parameters
    ----------
    rate : requests a second offered
    offered, in_time : requests; a trial that was stopped early has offered fewer
    stopped : too many had missed; `attainment` is what it was by then
    """

    rate: float
    offered: int
    in_time: int
    refused: int
    failed: int
    stopped: bool
    ttft_s: dict[str, float]
    tpot_s: dict[str, float]
    total_s: dict[str, float]
    output_tokens_per_s: float
    late_s: dict[str, float]
    client_cpu_share: float

    @property
    def attainment(self) -> float:
        return self.in_time / max(1, self.offered)

    @property
    def good(self) -> bool:
        return not self.stopped and self.attainment >= SHARE

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"attainment": self.attainment, "good": self.good}


Body = Callable[[int, Arrival], dict[str, Any]]


def carry_out(plan: Plan) -> dict[str, Any]:
    """Run a plan in a generator of its own."""
    done = subprocess.run(
        [sys.executable, str(GENERATOR)], input=json.dumps(asdict(plan)), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def trial(
    port: int, rate: float, arrivals: Sequence[Arrival], body: Body, objective: Objective, *,
    whole: bool = False, patience_s: float = PATIENCE_S,
) -> tuple[Trial, list[dict[str, Any]]]:  # fmt: skip
    """Offer `arrivals` at `rate` requests a second.

    Parameters
    ----------
    body : the request's body, by its number and its arrival
    whole : see it through, however many miss

    Returns
    -------
    the verdict, and each request as the generator saw it
    """
    plan = Plan(
        port,
        [(each.at / rate, body(i, each), each.output_tokens) for i, each in enumerate(arrivals)],
        objective.ttft_s,
        objective.tpot_s,
        most_misses=len(arrivals) if whole else int(GIVEN_UP * len(arrivals)),
        patience_s=patience_s,
    )
    answer = carry_out(plan)
    return judged(rate, answer, objective), answer["seen"]


def judged(rate: float, answer: dict[str, Any], objective: Objective) -> Trial:
    """The verdict on what a generator saw."""
    seen = answer["seen"]
    known = [one for one in seen if one["error"] != "cut"]  # the end of a stopped trial said nothing of those
    fine = [one for one in known if not one["error"]]
    in_time = [one for one in fine if one["ttft_s"] <= objective.ttft_s and one["tpot_s"] <= objective.tpot_s]
    refused = sum(one["status"] == 429 for one in known)
    failed = sum(one["error"] not in ("", "late") and one["status"] != 429 for one in known)
    tokens = sum(one["tokens"] or one["asked_tokens"] for one in fine)
    return Trial(
        rate=rate,
        offered=len(known),
        in_time=len(in_time),
        refused=refused,
        failed=failed,
        stopped=answer["stopped"],
        ttft_s=quantiles([one["ttft_s"] for one in fine]),
        tpot_s=quantiles([one["tpot_s"] for one in fine]),
        total_s=quantiles([one["total_s"] for one in fine]),
        output_tokens_per_s=tokens / answer["wall_s"],
        late_s=quantiles([one["late_s"] for one in seen]),
        client_cpu_share=answer["cpu_s"] / answer["wall_s"],
    )


def search(
    try_rate: Callable[[float], Trial], guess: float, *, precision: float, most_trials: int
) -> list[Trial]:
    """Try rates until the best good one and the least bad one are within `precision` of each other.

    Parameters
    ----------
    guess : requests a second; where to begin
    precision : 0.1 for ten per cent
    """
    trials: list[Trial] = []
    good, bad = 0.0, float("inf")
    rate = guess
    while len(trials) < most_trials and not (good and bad < good * (1 + precision)):
        made = try_rate(rate)
        trials.append(made)
        if made.good:
            good = max(good, rate)
        else:
            bad = min(bad, rate)
        if not good:
            rate = bad / 1.6
        elif bad == float("inf"):
            rate = good * 1.4
        else:
            rate = (good * bad) ** 0.5
    return sorted(trials, key=lambda each: each.rate)


def goodput(trials: Sequence[Trial]) -> float:
    """The highest rate below which no rate failed; 0 if none was good."""
    best = 0.0
    for each in sorted(trials, key=lambda one: one.rate):
        if not each.good:
            break
        best = each.rate
    return best


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and the largest; nothing for no values."""
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "max": ordered[-1],
    }
