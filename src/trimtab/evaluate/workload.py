"""Workloads as lengths: requests of so many prompt and output tokens, from a file or drawn from a mix.

A trace is JSON lines of `{"prompt_tokens": 120, "output_tokens": 40}`, with `n` for several outputs that are
counted one after the other, as the published estimate counts them. Times of arrival are not used here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.errors import BadFile, NotMeasured, UnknownName
from trimtab.machine.requests.model import Estimate, RequestModel

if TYPE_CHECKING:
    from trimtab.machine.power.energy import Energy

_LONGEST_BYTES = 256 * 2**20
_MOST_TOKENS = 10**7


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a workload."""

    prompt_tokens: int
    output_tokens: int
    n: int = 1


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a workload takes when its requests run one after the other, or `batch` equal ones together.

    Parameters
    ----------
    each : one estimate a request, its `n` outputs included
    total_s, low_s, high_s : of all; the band is that of the sum if every request missed to the same side
    cost : in the currency of the price, None without one
    """

    each: tuple[Estimate, ...]
    total_s: float
    low_s: float
    high_s: float
    cost: float | None = None


MIXES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    # median of prompt and of output tokens, and the deviation of their logarithms
    "chat": ((120, 0.9), (90, 0.7)),
    "summary": ((900, 0.5), (60, 0.5)),
    "extract": ((400, 0.6), (8, 0.6)),
}


def mix(
    name: str, count: int, seed: int, *, most_prompt: int = 1920, most_output: int = 256
) -> list[Request]:
    """Requests drawn from a named mix of log-normal lengths; equal seeds give equal requests.

    Raises
    ------
    UnknownName : no such mix; `mixed` draws from all of them
    """
    if name != "mixed" and name not in MIXES:
        raise UnknownName(f"no mix `{name}`", f"there is mixed, {', '.join(MIXES)}", "mix")
    draw, made = random.Random(f"{name} {seed}"), []
    for index in range(count):
        kind = name if name != "mixed" else list(MIXES)[index % len(MIXES)]
        (prompt, wide), (output, spread) = MIXES[kind]
        prompt_tokens = round(draw.lognormvariate(0, wide) * prompt)
        output_tokens = round(draw.lognormvariate(0, spread) * output)
        made.append(Request(min(most_prompt, max(1, prompt_tokens)), min(most_output, max(1, output_tokens))))
    return made


def read_trace(path: Path) -> list[Request]:
    """The requests of a trace.

    Raises
    ------
    BadFile : it cannot be read; names the line
    """
    try:
        if path.stat().st_size > _LONGEST_BYTES:
            raise BadFile(path, "too large for a trace of lengths")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadFile(path, f"cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            request = Request(_count(told, "prompt_tokens"), _count(told, "output_tokens"), _n(told))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BadFile(
                path,
                f"line {number} is no request: {error}",
                hint='a line is {"prompt_tokens": 120, "output_tokens": 40}',
            ) from error
        found.append(request)
    if not found:
        raise BadFile(path, "holds no request")
    return found


def predict(
    model: RequestModel, requests: Sequence[Request], *, batch: int = 1, price_per_hour: float | None = None
) -> Prediction:
    """Time and cost of each request and of all.

    Parameters
    ----------
    batch : requests that run together; the fit of that many equal ones is used, and its time shared by them
    price_per_hour : of the machine

    Raises
    ------
    NotMeasured : no fit for so many together
    """
    each = []
    for request in requests:
        one = model.predict(request.prompt_tokens, request.output_tokens, batch)
        n = request.n
        each.append(Estimate(one.first_s, n * one.total_s, n * one.low_s, n * one.high_s))
    total, low, high = (
        sum(getattr(one, name) for one in each) / batch for name in ("total_s", "low_s", "high_s")
    )
    cost = None if price_per_hour is None else total * price_per_hour / 3600
    return Prediction(tuple(each), total, low, high, cost)


def energy(seconds: float, threads: int) -> Energy | None:
    """Joules of a time on so many cores of this machine's processor, modelled from its data sheet.

    Memory is left out: what a request reads of it is not in the fit. None where the processor is not known.
    """
    from trimtab.machine.power.model import Activity, default_model
    from trimtab.machine.probe import describe

    here = describe()
    try:
        power = default_model(here.processor, here.usable, here.features)
    except NotMeasured:
        return None
    return power.energy(Activity(seconds, seconds * min(threads, here.usable), 0.0, 0.0))


def _count(told: Any, name: str) -> int:
    value = told[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_TOKENS:
        raise ValueError(f"`{name}` is {value!r}, not a count from 1")
    return value


def _n(told: Any) -> int:
    return _count(told, "n") if "n" in told else 1
