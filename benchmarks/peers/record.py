"""From races to a Report: the ceilings of this model's work, rows of a table, and quality beside speed."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from peers.roster import OURS, SEED, Task
from trimtab.machine.probe import Limits, describe
from trimtab.machine.report import Report, command_line, versions
from trimtab.machine.rounds import Contest, Race, spread
from trimtab.models.config import ModelConfig

CHUNK = 512  # tokens whose second half is scored, given what precedes


class Work:
    """Operations and bytes that this model's work takes at least, whoever does it.

    Parameters
    ----------
    weight_bytes : of the weights as trimtab holds them, what one greedy step of one row reads
    kv_bytes : of one position in the cache
    """

    def __init__(self, config: ModelConfig, weight_bytes: int, kv_number_bytes: int = 2) -> None:
        heads, kv, size = config.heads, config.kv_heads, config.head_dim
        a_layer = config.hidden * size * (2 * heads + 2 * kv) + 3 * config.hidden * config.mlp
        self.body_ops = 2 * config.layers * a_layer
        self.head_ops = 2 * config.vocab_size * config.hidden
        self.attention_ops = 4 * config.layers * heads * size  # per position looked at
        self.kv_bytes = 2 * config.layers * kv * size * kv_number_bytes
        self.weight_bytes = weight_bytes

    def step_seconds(self, limits: Limits, sequences: int, context: float) -> float:
        """One decode step with perfect overlap of memory and arithmetic."""
        read = (self.weight_bytes + sequences * context * self.kv_bytes) / limits.read_bytes_per_s
        integer = sequences * (self.body_ops + self.head_ops) / limits.int8_ops_per_s
        attention = sequences * context * self.attention_ops / limits.float_ops_per_s
        return max(read, integer + attention)

    def prefill_seconds(self, limits: Limits, tokens: int) -> float:
        """A prompt in one piece: matrices in int8, attention in float, the head for the last position."""
        integer = (tokens * self.body_ops + self.head_ops) / limits.int8_ops_per_s
        attention = tokens * (tokens + 1) / 2 * self.attention_ops / limits.float_ops_per_s
        return max(integer + attention, self.weight_bytes / limits.read_bytes_per_s)


def work_of(task: Task, contest: Contest) -> Work | None:
    """The ceilings' work with trimtab's own weight bytes; None when trimtab itself did not load."""
    loaded = contest.loaded.get(OURS)
    return None if loaded is None else Work(task.config, loaded["weight_bytes"])


def table(
    contest: Contest, race: Race, unit: str, perplexities: Mapping[str, float] | None = None
) -> list[Any]:
    """One row a contender, the fastest first."""
    rows = []
    for name in sorted(race.values, key=race.median, reverse=True):
        loaded = contest.loaded[name]
        row = {"contender": name, unit: race.median(name), "spread": spread(race.values[name])}
        if OURS in race.values and name != OURS:
            row["trimtab is x"] = race.ratio(OURS, name)
        row["resident MB"] = loaded["resident_bytes"] / 1e6
        if perplexities is not None:
            row["perplexity"] = perplexities.get(name)
        row["settings"] = dict(race.settings[name]) or None
        rows.append(row)
    return rows


def perplexities(task: Task, contest: Contest, chunks: int = 2) -> dict[str, float]:
    """Perplexity of those contenders that can tell, over the first chunks of the text."""
    found: dict[str, float] = {}
    parts = [task.tokens[at : at + CHUNK] for at in range(0, chunks * CHUNK, CHUNK)]
    for name, worker in contest.workers.items():
        try:
            answers = [worker.call("score", tokens=part, first=CHUNK // 2) for part in parts]
        except Exception as error:
            print(f"{name} tells no perplexity: {error}", file=sys.stderr)
            continue
        found[name] = math.exp(sum(a["nll"] for a in answers) / sum(a["count"] for a in answers))
    return found


def report(
    task: Task, name: str, claim: str, *, contest: Contest | None = None, races: Sequence[Race] = (),
    samples: Mapping[str, Any] | None = None, result: Mapping[str, Any],
) -> Report:  # fmt: skip
    """The Report of a benchmark; a quick one has a name of its own, so that it replaces no real one."""
    loaded = {} if contest is None else contest.loaded
    told = {title: f"{each['name']} {each['version']}" for title, each in loaded.items()}
    absent = {} if contest is None else contest.absent
    return Report(
        name=f"{name}-quick" if task.options.quick else name,
        claim=claim,
        machine=asdict(describe()),
        versions=versions(**told),
        command=command_line(),
        seeds=[SEED],
        samples=dict(samples or {}) | {race.label: race.samples() for race in races},
        result={"model": task.model.name, "threads": task.threads, "absent": absent, **result},
    )


def middle_fraction(race: Race, most: Any) -> float | None:
    """trimtab's share of the ceiling, None when it did not run."""
    return race.limit_fraction(OURS, most) if OURS in race.values else None
