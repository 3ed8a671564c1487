"""Candidates side by side on one workload: raw, denoised and idealized time, cost, memory and quality.

- raw: the workload as it ran through the candidate's own engine, the mean over trials, HTTP included
- denoised: the fit of the minimum over trials on that same stack
- idealized: the same model on one uniform stack, trimtab in this process on this machine; where the model's
  file cannot be had here there is none

All candidates are open together and take turns, so that a slow minute hits every one of them.

References: arXiv 2305.02440.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trimtab.errors import TrimtabError, UsageError
from trimtab.evaluate import quality
from trimtab.evaluate.calibration import QUICK_OUTPUTS, Calibration
from trimtab.evaluate.llm import warm_up
from trimtab.evaluate.targets import ENGINES, Inside, Target, open_target
from trimtab.evaluate.workload import Request

SPENT_EACH_S = 20.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """What to compare: `model`, `model@format`, `engine:model` or the address of a server."""

    text: str
    engine: str
    model: str
    format: str = ""

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Read a candidate as a user writes it.

        Raises
        ------
        UsageError : no model in it
        """
        if text.startswith(("http://", "https://")):
            return cls(text, text, "")
        engine, colon, model = text.partition(":")
        if not colon or engine not in ENGINES:
            engine, model = "trimtab", text
        model, at, form = model.rpartition("@") if "@" in model else (model, "", "")
        if not model or (at and engine != "trimtab"):
            raise UsageError(
                f"`{text}` names no candidate",
                "write a model, model@format, engine:model or an address; formats are trimtab's own",
                "candidates",
            )
        return cls(text, engine, model, form)

    def open(self, threads: int | None) -> Target:
        chosen = {"threads": threads, "format": self.format or None}
        return open_target(self.engine, self.model, **{k: v for k, v in chosen.items() if v is not None})


@dataclass(slots=True)
class Row:
    """What was found of a candidate; None where `why` has the reason."""

    name: str
    engine: str
    raw_s: float | None = None
    denoised_s: float | None = None
    idealized_s: float | None = None
    cost: float | None = None
    memory_bytes: int | None = None
    memory_basis: str = ""
    perplexity: float | None = None
    kl: float | None = None
    trials: int = 0
    why: dict[str, str] = field(default_factory=dict)
    fit: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Open:
    row: Row
    target: Target
    own: Calibration
    uniform: Target | None = None
    its: Calibration | None = None
    totals: list[float] = field(default_factory=list)


def compare(
    candidates: Sequence[Candidate], workload: Sequence[Request], *, trials: int = 3,
    budget_s: float = SPENT_EACH_S, price_per_hour: float | None = None, threads: int | None = None,
    text: str | None = None, windows: int = 2, seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:  # fmt: skip
    """Measure all candidates in turns.

    Parameters
    ----------
    trials : times that the workload runs through each
    budget_s : seconds of calibration of each
    text : for quality; "" leaves quality out; default: the bundled text

    Raises
    ------
    UsageError : no candidates; whatever opening one of them raises
    """
    if not candidates:
        raise UsageError("nothing to compare", "name at least one model", "candidates")
    opened: list[_Open] = []
    try:
        for number, candidate in enumerate(candidates):
            say(f"opening {candidate.text}")
            opened.append(_opened(candidate, threads, budget_s, seed + number))
        going = [each for one in opened for each in (one.own, one.its) if each is not None]
        rounds = 0
        while going or rounds < trials:
            if rounds < trials:
                for one in opened:
                    _run(one, workload, seed + rounds)
                rounds += 1
                say(f"workload {rounds}/{trials}")
            # As many steps between two rounds as spread the calibration over all of them.
            for _ in range(8):
                going = [calibration for calibration in going if calibration.step()]
            say(f"calibrating: {sum(one.own.runs for one in opened)} runs")
        wanted = quality.bundled_text() if text is None else text
        for one in opened:
            _concluded(one, opened[0].target, workload, price_per_hour, wanted, windows)
            say(f"quality of {one.row.name}: {one.row.perplexity or one.row.why['perplexity']}")
    finally:
        for one in opened:
            one.target.close()
            if one.uniform is not None:
                one.uniform.close()
    return [one.row for one in opened]


def _opened(candidate: Candidate, threads: int | None, budget_s: float, seed: int) -> _Open:
    target = candidate.open(threads)
    row = Row(candidate.text, target.engine)
    one = _Open(row, target, _calibration(target, budget_s, seed))
    if not isinstance(target, Inside):
        try:
            model = candidate.model or target.model
            one.uniform = Inside(model, **({} if threads is None else {"threads": threads}))
            one.its = _calibration(one.uniform, budget_s, seed)
        except TrimtabError as error:
            row.why["idealized_s"] = f"the model cannot be opened here: {error.message}"
    return one


def _calibration(target: Target, budget_s: float, seed: int) -> Calibration:
    calibration = Calibration(target, budget_s=budget_s, seed=seed, outputs=QUICK_OUTPUTS)
    warm_up(target, calibration)
    return calibration


def _run(one: _Open, workload: Sequence[Request], seed: int) -> None:
    """The workload once, as it is."""
    total = 0.0
    for request in workload:
        for _ in range(request.n):
            prompt = one.own.tokens(
                min(request.prompt_tokens, one.target.context - request.output_tokens - 1)
            )
            start = time.perf_counter()
            one.target.run([prompt], request.output_tokens)
            total += time.perf_counter() - start
    one.totals.append(total)


def _concluded(
    one: _Open, first: Target, workload: Sequence[Request], price: float | None, text: str, windows: int
) -> None:
    row = one.row
    pairs = [(r.prompt_tokens, r.output_tokens) for r in workload for _ in range(r.n)]
    fitted = one.own.fit()
    row.trials, row.raw_s = len(one.totals), statistics.fmean(one.totals)
    row.denoised_s = fitted.total_s(pairs)
    row.fit = fitted.to_json()
    if isinstance(one.target, Inside):
        row.idealized_s = row.denoised_s
    elif one.its is not None:
        row.idealized_s = one.its.fit().total_s(pairs)
    if price is not None and (row.idealized_s or row.denoised_s):
        row.cost = (row.idealized_s or row.denoised_s or 0.0) * price / 3600
    memory = one.target.memory_bytes()
    if memory is None:
        row.why["memory_bytes"] = "a distant process cannot be looked into"
    else:
        row.memory_bytes, row.memory_basis = memory
    if not text:
        row.why["perplexity"] = row.why["kl"] = "not asked for"
        return
    for name, value in (
        ("perplexity", quality.perplexity(one.target, text)),
        ("kl", quality.divergence(first, one.target, text, windows)),
    ):
        if isinstance(value, str):
            row.why[name] = value
        else:
            setattr(row, name, value)
