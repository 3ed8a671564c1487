"""What holds a dissected run back, worst first, and what to change.

A rule looks at one dissection and either says nothing or names a loss: the time something takes, the least it
could take, and the share of the whole run that a change would give back. Rules are a table; each stands on
the figures it prints. Gains of different rules overlap and do not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.errors import UsageError

Dissection = Mapping[str, Any]
WORST = 3
_HOST = ("schedule", "assemble", "commit", "wake", "call into the program", "around the operations")
_LATENCY = "latency/dispatch"


@dataclass(frozen=True, slots=True)
class Loss:
    """What a rule found.

    Parameters
    ----------
    seconds : that it took in the run
    bound_s : the least it could have taken
    gain_s : what the change would give back
    evidence : the figures it stands on
    """

    seconds: float
    bound_s: float
    gain_s: float
    evidence: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One bottleneck that a run may have; `change` says what to do about it."""

    name: str
    what: str
    find: Callable[[Dissection], Loss | None]
    change: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A loss in words; `gain` is a share of the run."""

    rule: str
    what: str
    evidence: str
    seconds: float
    bound_s: float
    gain: float
    change: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(dissection: Dissection, most: int = WORST) -> list[Finding]:
    """The worst bottlenecks of a dissected run, the one that costs most first.

    Raises
    ------
    UsageError : it is no dissection of this version
    """
    from trimtab.machine.dissect.dissection import SCHEMA

    if dissection.get("schema") != SCHEMA:
        raise UsageError(
            f"this is no dissection: its schema is {dissection.get('schema')!r}, not {SCHEMA!r}",
            "make one: `trimtab measure dissect serve --out d.json`",
        )
    wall = run_seconds(dissection)
    found = []
    for rule in RULES:
        loss = rule.find(dissection)
        if loss is None or wall <= 0 or loss.gain_s <= 0:
            continue
        gain = min(1.0, loss.gain_s / wall)
        found.append(
            Finding(rule.name, rule.what, loss.evidence, loss.seconds, loss.bound_s, gain, rule.change)
        )
    return sorted(found, key=lambda each: -each.gain)[:most]


def run_seconds(dissection: Dissection) -> float:
    """The time that gains are shares of: the engine's, from its first step to its last."""
    wall = float(dissection.get("engine", {}).get("wall_s", 0.0))
    return wall or sum(float(stage["seconds"]) for stage in dissection["steps"]["stages"])


# --- what the rules look at -------------------------------------------------------------------------------


def _operators(d: Dissection, stage: str | None = None) -> Iterator[Mapping[str, Any]]:
    for row in d["operators"]:
        if "bound_s" in row and stage in (None, row["stage"]):
            yield row


def _stage_s(d: Dissection, stage: str) -> float:
    return sum(float(row["seconds"]) for row in d["steps"]["stages"] if row["stage"] == stage)


def _engine_s(d: Dissection, *parts: str) -> float:
    return sum(float(row["seconds"]) for row in d["engine"]["rows"] if row["part"] in parts)


def _is_product(row: Mapping[str, Any]) -> bool:
    return str(row["name"]).endswith((".qkv", ".out", ".gate_up", ".down"))


def _vocabulary(d: Dissection) -> Loss | None:
    rows = [row for row in _operators(d, "decode") if row["name"] == "head"]
    seconds, whole = sum(row["seconds"] for row in rows), _stage_s(d, "decode")
    if not whole or seconds < 0.2 * whole:
        return None
    bound = sum(row["bound_s"] for row in rows)
    evidence = f"{seconds / whole:.0%} of decoding; {bound / seconds:.0%} of its bound"
    return Loss(seconds, bound, seconds - bound, evidence)


def _barriers(d: Dissection) -> Loss | None:
    waits = [row for row in d["threads"] if row["seconds"] > 0]
    if len(waits) < 2:
        return None
    share = sum(row["wait_share"] for row in waits) / len(waits)
    if share < 0.12:
        return None
    seconds = sum(row["wait_s"] for row in waits) / len(waits)
    told = ", ".join(f"{row['wait_share']:.0%}" for row in waits)
    return Loss(seconds, 0.0, seconds, f"threads wait for each other {told} of the steps")


def _small(d: Dissection) -> Loss | None:
    rows = [
        row
        for row in _operators(d, "decode")
        if row["class"] == _LATENCY or (row["seconds"] < 40e-6 * row["calls"] and row["of_bound"] < 0.25)
    ]
    seconds, whole = sum(row["seconds"] for row in rows), _stage_s(d, "decode")
    if not whole or seconds < 0.1 * whole:
        return None
    bound = sum(row["bound_s"] for row in rows)
    calls = sum(row["calls"] for row in rows)
    evidence = f"{calls} calls of {seconds / calls * 1e6:.1f} us each, {seconds / whole:.0%} of decoding"
    return Loss(seconds, bound, max(0.0, seconds - bound), evidence)


def _weights(d: Dissection) -> Loss | None:
    rows = [row for row in _operators(d, "decode") if _is_product(row) and row["class"] == "bandwidth"]
    seconds, whole = sum(row["seconds"] for row in rows), _stage_s(d, "decode")
    bound = sum(row["bound_s"] for row in rows)
    if not whole or seconds < 0.4 * whole or bound < 0.4 * seconds:
        return None
    rate = sum(row["bytes"] for row in rows) / seconds * 1e-9
    evidence = f"{seconds / whole:.0%} of decoding reads weights, at {rate:.1f} GB/s"
    return Loss(seconds, bound, seconds / 2, evidence)


def _cache(d: Dissection) -> Loss | None:
    rows = [row for row in _operators(d, "decode") if row["name"].endswith(".attend")]
    seconds, whole = sum(row["seconds"] for row in rows), _stage_s(d, "decode")
    if not whole or seconds < 0.2 * whole or d["facts"].get("kv_type") == "int8":
        return None
    bound = sum(row["bound_s"] for row in rows)
    evidence = f"attention is {seconds / whole:.0%} of decoding, over a cache of {d['facts'].get('kv_type')}"
    return Loss(seconds, bound, seconds / 2, evidence)


def _host(d: Dissection) -> Loss | None:
    seconds, wall = _engine_s(d, *_HOST), run_seconds(d)
    if wall <= 0 or seconds < 0.08 * wall:
        return None
    worst = max(
        (row for row in d["engine"]["rows"] if row["part"] in _HOST), key=lambda row: float(row["seconds"])
    )
    each = worst["seconds"] / max(1, worst["calls"]) * 1e6
    evidence = (
        f"{seconds / wall:.0%} of the time no operator runs; most is `{worst['part']}`, {each:.0f} us a step"
    )
    return Loss(seconds, 0.0, seconds / 2, evidence)


def _answers(d: Dissection) -> Loss | None:
    rows = {row["part"]: row for row in d.get("server", ())}
    seconds, wall = sum(float(row["seconds"]) for row in rows.values()), run_seconds(d)
    if wall <= 0 or seconds < 0.1 * wall:
        return None
    calls = sum(row["calls"] for row in rows.values())
    evidence = f"{calls} pieces of text made and written in {seconds:.2f} s, beside the engine"
    return Loss(seconds, 0.0, seconds / 2, evidence)


def _queue(d: Dissection) -> Loss | None:
    medians = d["requests"]["medians"]
    whole = sum(medians.values())
    waits = medians.get("queue", 0.0)
    if not whole or waits < 0.25 * whole:
        return None
    share = waits / whole
    return Loss(waits, 0.0, share * run_seconds(d), f"a request waits {waits:.2f} s, {share:.0%} of its time")


def _before(d: Dissection) -> Loss | None:
    medians = d["requests"]["medians"]
    whole = sum(medians.values())
    seconds = sum(medians.get(name, 0.0) for name in ("parse", "template", "tokenize"))
    if not whole or seconds < 0.05 * whole:
        return None
    evidence = f"{seconds * 1e3:.1f} ms before the engine has the request, {seconds / whole:.0%} of its time"
    return Loss(seconds, 0.0, seconds / whole * run_seconds(d), evidence)


def _prompts(d: Dissection) -> Loss | None:
    seconds, wall = _stage_s(d, "prefill") + _stage_s(d, "mixed"), run_seconds(d)
    rows = d["requests"]["rows"]
    prompts, cached = (sum(row.get(name, 0) for row in rows) for name in ("prompt_tokens", "cached_tokens"))
    if not prompts or wall <= 0 or seconds < 0.4 * wall or cached > 0.2 * prompts:
        return None
    evidence = (
        f"prompts are {seconds / wall:.0%} of the time, and {cached} of their {prompts} tokens were cached"
    )
    return Loss(seconds, 0.0, 0.5 * seconds, evidence)


def _kernels(d: Dissection) -> Loss | None:
    rows = [row for row in _operators(d) if _is_product(row) and row["class"] == "compute"]
    seconds, wall = sum(row["seconds"] for row in rows), run_seconds(d)
    bound = sum(row["bound_s"] for row in rows)
    if wall <= 0 or seconds < 0.2 * wall or bound > 0.5 * seconds:
        return None
    kernels = d["facts"].get("kernels")
    evidence = f"matrix products reach {bound / seconds:.0%} of the peak with kernel set `{kernels}`"
    return Loss(seconds, bound, seconds - 1.5 * bound, evidence)


def _neighbours(d: Dissection) -> Loss | None:
    noise = d.get("noise", {})
    share = float(noise.get("steal", 0.0)) + float(noise.get("others", 0.0))
    if share < 0.1:
        return None
    wall = run_seconds(d)
    evidence = (
        f"the hypervisor took {noise['steal']:.0%} of the processors, other programs {noise['others']:.0%}"
    )
    return Loss(share * wall, 0.0, share * wall, evidence)


def _threads(d: Dissection) -> Loss | None:
    threads = int(d["facts"].get("threads", 1))
    usable = int(d["facts"].get("machine", {}).get("usable", threads))
    if threads <= usable:
        return None
    wall, share = run_seconds(d), 1 - usable / threads
    evidence = f"{threads} threads on {usable} processors: a step waits for whoever was put aside"
    return Loss(share * wall, 0.0, share * wall, evidence)


RULES = (
    Rule(
        "vocabulary", "the vocabulary projection", _vocabulary,
        "ask greedily where the task allows it (the sketch reads half of the bytes), or store the projection "
        "narrower: --format q4",
    ),
    Rule(
        "barriers", "threads that wait for each other", _barriers,
        "give the engine processors of its own (--pin, or one thread less with --threads), and keep other "
        "work off them",
    ),
    Rule(
        "small operators", "operators too small to share out", _small,
        "run more requests together: these take as long for one row as for eight",
    ),
    Rule(
        "weights", "weights read for few rows", _weights,
        "run more requests together, which read the weights once for all, or store them narrower: "
        "--format q4",
    ),
    Rule("cache", "attention over a wide cache", _cache, "store keys and values in 8 bits: --kv-type int8"),
    Rule(
        "host", "Python between the steps", _host,
        "more requests a step share this cost; with many streams write them less often: --stream-gap-ms 50",
    ),
    Rule(
        "answers", "making and writing pieces of text", _answers,
        "write streams less often (--stream-gap-ms 50), or ask for whole answers where nobody reads along",
    ),
    Rule(
        "queue", "requests that wait for their turn", _queue,
        "send fewer at a time, or let more run together: a larger --memory holds more of them",
    ),
    Rule(
        "before the engine", "requests before the engine has them", _before,
        "send prompts as token ids, or shorter ones; long ones are tokenized beside the engine's threads",
    ),
    Rule(
        "prompts", "prompts computed anew", _prompts,
        "put what prompts share at their beginning, where it is computed once; keep it over restarts with "
        "--prefix-dir",
    ),
    Rule(
        "kernels", "matrix products far below the peak", _kernels,
        "see which kernels were chosen and why: `trimtab measure --kernels`; measure on a quiet machine",
    ),
    Rule(
        "neighbours", "other work on the processors", _neighbours,
        "stop it, or move it off the engine's processors; on a rented machine take one with cores of its own",
    ),
    Rule(
        "threads", "more threads than processors", _threads,
        "leave --threads out, or name at most the processors this process may use",
    ),
)  # fmt: skip
