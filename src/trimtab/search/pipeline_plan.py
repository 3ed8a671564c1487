"""Chooses a pipeline's settings for a latency objective: batching, decode scale, hand-over.

Candidates are compared by simulated latency and by the demand laws, both from the profile's section
`pipeline`; nothing is run. A plan says what it expects, so that a measurement can contradict it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.errors import NotMeasured, UsageError
from trimtab.search import demand, pipeline_model

SIZES = (1, 2, 4, 8, 16, 32)
DELAYS_MS = (0.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0)
LOAD = 0.7
"""Share of the knee at which settings are compared when no rate is asked for."""
_WORTH = 0.02  # a longer delay or a larger batch must gain this share to be chosen
_SAMPLE_SIDES = 5 / 3  # decoded pixels for each one of the detector's, so that small letters stay readable


@dataclass(frozen=True, slots=True)
class Plan:
    """What to set, and what to expect; latency is simulated, the knee follows from the demand laws.

    Parameters
    ----------
    changes : settings by stage
    rate_per_s : at which latency was compared
    slo_rate_per_s : highest rate with p99 inside the objective; 0 when none is
    networks_only_per_s : what an estimate from the networks alone would have promised
    """

    changes: Mapping[str, Mapping[str, Any]]
    knee_per_s: float
    networks_only_per_s: float
    rate_per_s: float
    p99_ms: float
    unchanged_p99_ms: float
    slo_p99_ms: float
    slo_rate_per_s: float
    reasons: tuple[str, ...] = field(default=())


def plan(section: Mapping[str, Any], slo_p99_ms: float, rate: float | None = None, seed: int = 0) -> Plan:
    """Plan for one measured pipeline.

    Parameters
    ----------
    section : `pipeline` of the machine profile
    slo_p99_ms : objective for the 99th percentile of latency
    rate : pictures a second to compare settings at; default: 70 % of the knee

    Raises
    ------
    NotMeasured : the section knows too little
    UsageError : the rate is beyond the knee
    """
    law = demand.fitted(section)
    mix = [(row["weight"], row["features"]) for row in section["pictures"]]
    knee = law.knee(mix)
    at = rate or LOAD * knee
    if at >= knee:
        raise UsageError(
            f"{at:.2f} pictures/s is beyond the knee of {knee:.2f}: the queue would grow for ever",
            "ask for less, or measure with a smaller `side`", "rate",
        )  # fmt: skip
    changes: dict[str, dict[str, Any]] = {}
    reasons: list[str] = []
    before = pipeline_model.p99_ms(section, {}, at, seed)
    target = next((s["name"] or s["op"] for s in section["stages"] if s["op"] == "recognise-text"), None)
    best = before
    if target is not None:
        chosen, best = _batching(section, target, at, seed)
        changes[target] = chosen
        reasons.append(
            f"{target}: batches of {chosen['most']} after at most {chosen['delay_ms']:g} ms: simulated p99 "
            f"{best:.0f} ms, {before:.0f} ms as it is"
        )
    _decoding(section, law, changes, reasons)
    _handing(section, changes, reasons)
    reached = _most_rate(section, changes, knee, slo_p99_ms, seed)
    if reached == 0.0:
        reasons.append(f"no rate keeps p99 inside {slo_p99_ms:g} ms: one picture alone takes too long")
    return Plan(changes, knee, law.networks_only(mix), at, best, before, slo_p99_ms, reached, tuple(reasons))


def _batching(section: Mapping[str, Any], stage: str, rate: float, seed: int) -> tuple[dict[str, Any], float]:
    """The batch settings with the lowest simulated p99; of nearly equal ones the smallest."""
    seen = []
    for most, delay_ms in itertools.product(SIZES, DELAYS_MS):
        if most == 1 and delay_ms:
            continue
        chosen = {"most": most, "delay_ms": delay_ms}
        seen.append((pipeline_model.p99_ms(section, {stage: chosen}, rate, seed), most, delay_ms))
    least = min(p99 for p99, _, _ in seen)
    p99, most, delay_ms = min(
        (one for one in seen if one[0] <= least * (1 + _WORTH)), key=lambda one: (one[2], one[1])
    )
    return {"most": most, "delay_ms": delay_ms}, p99


def _decoding(
    section: Mapping[str, Any], law: demand.Demand, changes: dict[str, dict[str, Any]], reasons: list[str]
) -> None:
    """Decode no more pixels than the detector and the crops can use."""
    fits = [s["settings"].get("side", 736) for s in section["stages"] if s["op"] == "fit-to-network"]
    for spec in section["stages"]:
        if spec["op"] != "decode-image" or not fits or spec["settings"].get("side"):
            continue
        title = spec["name"] or spec["op"]
        crops = any(s["op"] == "crop-boxes" for s in section["stages"])
        side = round(max(fits) * (_SAMPLE_SIDES if crops else 1))
        wasted = max((row["features"]["megapixels"] for row in section["pictures"]), default=0.0)
        if wasted * 1e6 < 4 * side * side * 0.75:
            continue  # no picture is large enough to be scaled
        spent = next((each for each in law.laws if each.stage == title), None)
        share = section["cpu_share"].get(title, 0.0)
        changes.setdefault(title, {})["side"] = side
        reasons.append(
            f"{title}: side {side}: it decodes all pixels now, {share:.0%} of the processor time"
            + (f", {spent.factors.get('decoded_megapixels', 0):.1f} ms a megapixel" if spent else "")
        )


def _handing(section: Mapping[str, Any], changes: dict[str, dict[str, Any]], reasons: list[str]) -> None:
    """A process pays only where threads wait for the interpreter, which networks do not."""
    for spec in section["stages"]:
        title = spec["name"] or spec["op"]
        if spec["worker"] == "process":
            changes.setdefault(title, {}).update(worker="thread", hand_over="queue")
            reasons.append(f"{title}: threads and `queue`: the network runs without the interpreter, so a "
                           f"process only adds the way through {spec['hand_over']}")  # fmt: skip


def _most_rate(
    section: Mapping[str, Any],
    changes: Mapping[str, Mapping[str, Any]],
    knee: float,
    slo_ms: float,
    seed: int,
) -> float:
    """The highest rate whose simulated p99 is inside the objective, to 3 %."""
    low, high = 0.0, knee
    for _ in range(7):
        middle = (low + high) / 2
        if pipeline_model.p99_ms(section, changes, middle, seed) <= slo_ms:
            low = middle
        else:
            high = middle
    return low


def applied(stages: list[dict[str, Any]], changes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A pipeline file's stages with a plan's changes in them.

    Raises
    ------
    NotMeasured : the plan is for another pipeline
    """
    titles = {stage.get("name") or stage["op"] for stage in stages}
    if missing := set(changes) - titles:
        raise NotMeasured(
            f"the measured pipeline has a stage `{missing.pop()}`, this file has not",
            "measure this file: `trimtab measure pipeline FILE`",
        )
    done = []
    for stage in stages:
        change = dict(changes.get(stage.get("name") or stage["op"], {}))
        batch = {key: change.pop(key) for key in ("most", "delay_ms", "bucket") if key in change}
        settings = {key: change.pop(key) for key in ("side",) if key in change}
        made = {**stage, **change}
        if batch:
            made["batch"] = {**stage.get("batch", {}), **batch}
        if settings:
            made["settings"] = {**stage.get("settings", {}), **settings}
        done.append(made)
    return done
