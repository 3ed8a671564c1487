"""Who arrives when, and with how much: Poisson arrivals, a built-in bursty trace, or a trace from a file.

Lengths follow a published conversation service (Azure LLM inference trace 2023, CC BY 4.0: deciles of its
prompt and output tokens), made shorter for a model of 135 million parameters on two cores: outputs to a
quarter, and prompts to an eighth, because reading a token costs a processor nearly as much as writing one
while a GPU reads prompts almost for nothing. Everything is drawn from a seed, so each server gets the same.
"""

from __future__ import annotations

import csv
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from trimtab.errors import BadFile

# Tokens at the quantiles 0, 0.1 ... 0.9, 0.95, 0.99 of the published trace.
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
PROMPT_TOKENS = (120, 207, 396, 1020, 1189, 2735, 4083, 4142)
OUTPUT_TOKENS = (24, 54, 85, 129, 395, 424, 451, 601)
PROMPT_SCALE, OUTPUT_SCALE = 1 / 8, 1 / 4
LEAST_PROMPT, MOST_PROMPT = 12, 520
LEAST_OUTPUT, MOST_OUTPUT = 4, 160
BURST_SHAPE = 0.25
"""Gamma gaps of this shape have twice the spread of Poisson's: bursts and lulls."""

PATTERNS = ("poisson", "bursts")


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request to come.

    Parameters
    ----------
    at : when, in mean gaps after the start; divided by a rate it is in seconds
    """

    at: float
    prompt_tokens: int
    output_tokens: int


def synthetic(pattern: str, count: int, seed: int) -> list[Arrival]:
    """The first `count` arrivals of a built-in pattern."""
    gaps, lengths = random.Random(f"{seed} {pattern}"), random.Random(seed)
    arrivals, at = [], 0.0
    for _ in range(count):
        shape = 1.0 if pattern == "poisson" else BURST_SHAPE
        at += gaps.gammavariate(shape, 1.0 / shape)
        prompt, output = _drawn(lengths, PROMPT_TOKENS), _drawn(lengths, OUTPUT_TOKENS)
        arrivals.append(_arrival(at, prompt, output))
    return normalised(arrivals)


def read(path: Path, count: int) -> list[Arrival]:
    """The first `count` arrivals of a CSV file: time (ISO or seconds), prompt tokens, output tokens.

    Its lengths are scaled as the built-in ones are, and its gaps keep their proportions.

    Raises
    ------
    BadFile : it cannot be read, or is no such trace
    """
    arrivals: list[Arrival] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            next(rows)
            for time, prompt, output, *_ in rows:
                arrivals.append(_arrival(_seconds(time), int(prompt), int(output)))
                if len(arrivals) == count:
                    break
    except (OSError, ValueError, StopIteration) as error:
        raise BadFile(path, f"no trace of time, prompt tokens, output tokens: {error}") from error
    if len(arrivals) < 2 or arrivals[-1].at <= arrivals[0].at:
        raise BadFile(path, "a trace needs at least two arrivals, in order")
    return normalised(arrivals)


def normalised(arrivals: Sequence[Arrival]) -> list[Arrival]:
    """The same arrivals with a mean gap of exactly one, the first one at 0."""
    first = arrivals[0].at
    gap = (arrivals[-1].at - first) / max(1, len(arrivals) - 1)
    return [replace(each, at=(each.at - first) / gap if gap else 0.0) for each in arrivals]


def _drawn(source: random.Random, tokens: Sequence[int]) -> float:
    """A length whose logarithm is linear between the quantiles."""
    at = source.random() * QUANTILES[-1]
    place = min(bisect_right(QUANTILES, at), len(QUANTILES) - 1)
    low, high = QUANTILES[place - 1], QUANTILES[place]
    return float(tokens[place - 1] * (tokens[place] / tokens[place - 1]) ** ((at - low) / (high - low)))


def _arrival(at: float, prompt: float, output: float) -> Arrival:
    return Arrival(
        at,
        max(LEAST_PROMPT, min(MOST_PROMPT, round(prompt * PROMPT_SCALE))),
        max(LEAST_OUTPUT, min(MOST_OUTPUT, round(output * OUTPUT_SCALE))),
    )


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text[:26]).timestamp()
