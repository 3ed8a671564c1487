"""How long a request takes: a cost of its prompt, and a cost of each further token, growing with the context.

    T(p, o) = alpha(p) + sum over the o - 1 further steps of (beta + gamma x positions looked at)

One such fit for each number of requests that run together, because the time of one alone says nothing about
throughput. This module knows fitted numbers, and neither how they were measured nor of what engine.

References: arXiv 2305.02440 for alpha and beta; gamma is added for long contexts, where a constant cost of a
token fails.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trimtab.errors import NotMeasured, UsageError


@dataclass(frozen=True, slots=True)
class Estimate:
    """One request as predicted; `low_s` to `high_s` is where 90 % of left-out measurements fell."""

    first_s: float
    total_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True, slots=True)
class PromptCost:
    """alpha(p): seconds from a prompt of p tokens to the first token of output; never falls with p.

    Parameters
    ----------
    prompts : measured lengths, ascending, each the end of a block of `quantum` tokens
    seconds : of each, not falling
    quantum : kernels take rows in blocks of so many; a prompt costs what its last block's end costs
    slopes : seconds a token at each length, so that the curve between them is monotone
    curve : (linear, square) seconds a token of what lies beyond the longest measured prompt
    """

    prompts: tuple[int, ...]
    seconds: tuple[float, ...]
    quantum: int = 1
    slopes: tuple[float, ...] = field(default=(), repr=False)
    curve: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    @classmethod
    def of(cls, points: Mapping[int, float], weights: Mapping[int, float], quantum: int = 1) -> PromptCost:
        """Through measured points, {prompt: seconds}; those in one block, and those that fall, are joined.

        Raises
        ------
        UsageError : no points, or one that is not positive
        """
        if not points or min(points) < 1 or not all(0 < s < math.inf for s in points.values()):
            raise UsageError(
                "a prompt's cost needs measured points above 0", "measure some: `trimtab measure llm`"
            )
        blocks: dict[int, tuple[float, float]] = {}
        for prompt in sorted(points):
            end, weight = _ceil(prompt, quantum), max(weights.get(prompt, 1.0), 1e-9)
            total, sums = blocks.get(end, (0.0, 0.0))
            blocks[end] = total + weight, sums + weight * points[prompt]
        keys = tuple(blocks)
        means = [sums / total for total, sums in blocks.values()]
        seconds = tuple(_rising(means, [total for total, _ in blocks.values()]))
        slopes = _slopes(keys, seconds)
        return cls(keys, seconds, quantum, tuple(slopes), _curve(keys, seconds))

    def at(self, prompt: int) -> float:
        """alpha of a prompt: measured lengths joined by a monotone curve.

        Below the shortest it is that one's cost, for a step has a least cost; beyond the longest it goes on
        with the line and the square that the longest quarter shows.
        """
        if prompt < 1:
            raise UsageError(f"a prompt of {prompt} tokens", "prompts have at least one token", "prompt")
        place = _ceil(prompt, self.quantum)
        if place <= self.prompts[0]:
            return self.seconds[0]
        last = self.prompts[-1]
        if place >= last:
            line, square = self.curve
            return self.seconds[-1] + line * (place - last) + square * (place**2 - last**2)
        right = bisect.bisect_right(self.prompts, place)
        x0, x1 = self.prompts[right - 1], self.prompts[right]
        y0, y1 = self.seconds[right - 1], self.seconds[right]
        width, t = x1 - x0, (place - x0) / (x1 - x0)
        a = self.slopes[right - 1] * width - (y1 - y0)
        b = (y1 - y0) - self.slopes[right] * width
        return (1 - t) * y0 + t * y1 + t * (1 - t) * ((1 - t) * a + t * b)


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of a fit at prompts that were left out of it: mean, 95th percentile, worst."""

    mean: float
    p95: float
    worst: float
    points: int


@dataclass(frozen=True, slots=True)
class BatchFit:
    """The fit of a number of equal requests that run together, from the first submission to the last token.

    Parameters
    ----------
    batch : requests together
    alpha : seconds until all of them have their first token, by the prompt of each
    beta_s : a step's seconds without any context
    gamma_s : seconds more for each position that a sequence of the step looks at
    band : least and largest measured/predicted of left-out points, but for 5 % on either side
    errors : at left-out prompts; None when there were too few to leave one out
    residuals : (prompt, output, measured s, predicted s) of each point
    trials : timed requests behind it
    """

    batch: int
    alpha: PromptCost
    beta_s: float
    gamma_s: float
    band: tuple[float, float] = (1.0, 1.0)
    errors: Errors | None = None
    residuals: tuple[tuple[int, int, float, float], ...] = ()
    trials: int = 0

    def decode_s(self, prompt: int, output: int) -> float:
        """Seconds of the tokens after the first."""
        steps = max(0, output - 1)
        return self.beta_s * steps + self.gamma_s * self.batch * positions(prompt, output)

    def total_s(self, prompt: int, output: int) -> float:
        if output < 1:
            raise UsageError(f"{output} tokens of output", "requests have at least one", "output")
        return self.alpha.at(prompt) + self.decode_s(prompt, output)

    def predict(self, prompt: int, output: int) -> Estimate:
        total = self.total_s(prompt, output)
        return Estimate(self.alpha.at(prompt), total, total * self.band[0], total * self.band[1])


@dataclass(frozen=True, slots=True)
class RequestModel:
    """What is known of the time that requests take with one model on one engine.

    Parameters
    ----------
    model, engine : their identities, as in the profile
    settings : threads, formats and modes that the figures hold for
    fits : by the number of requests that run together
    statistic : what was taken of several trials: `minimum` (denoised), `median` or `mean`
    basis : `fitted`; `prior` from the machine's ceilings alone, `scaled prior` with too few points
    overhead_s : what a request pays outside the model, such as HTTP; taken off, and not part of any figure
    """

    model: str
    engine: str
    settings: Mapping[str, Any]
    fits: Mapping[int, BatchFit]
    statistic: str = "minimum"
    basis: str = "fitted"
    overhead_s: float = 0.0

    def predict(self, prompt: int, output: int, batch: int = 1) -> Estimate:
        """The time of `batch` equal requests submitted together.

        Raises
        ------
        NotMeasured : no fit for so many at a time
        """
        return self._fit(batch).predict(prompt, output)

    def total_s(self, requests: Iterable[tuple[int, int]]) -> float:
        """Seconds of (prompt, output) requests one after the other."""
        fit = self._fit(1)
        return sum(fit.total_s(prompt, output) for prompt, output in requests)

    def step_s(self, contexts: Sequence[int]) -> float:
        """A decode step of sequences with these contexts; between measured batches on a line.

        Beyond the largest measured batch, its cost a sequence.
        """
        count = len(contexts)
        if not count:
            return 0.0
        known = sorted(self.fits)
        low = max((b for b in known if b <= count), default=known[0])
        high = min((b for b in known if b >= count), default=known[-1])
        share = (count - low) / (high - low) if high > low else 0.0
        beta = (1 - share) * self.fits[low].beta_s + share * self.fits[high].beta_s
        gamma = (1 - share) * self.fits[low].gamma_s + share * self.fits[high].gamma_s
        if count > known[-1]:
            beta *= count / known[-1]
        return beta + gamma * sum(contexts)

    def holds(self, prompt: int, output: int, *, ttft_s: float, tpot_s: float, wait_s: float = 0.0) -> bool:
        """Whether a request keeps its objectives: wait and alpha within one, each step within the other."""
        fit = self._fit(min(self.fits))
        longest = fit.beta_s + fit.gamma_s * fit.batch * (prompt + output)
        return wait_s + fit.alpha.at(prompt) <= ttft_s and longest <= tpot_s

    def _fit(self, batch: int) -> BatchFit:
        if batch not in self.fits:
            known = ", ".join(map(str, sorted(self.fits)))
            raise NotMeasured(
                f"{self.model} on {self.engine} was measured with {known} requests together, not {batch}",
                f"measure it: `trimtab measure llm --batch {batch}`",
            )
        return self.fits[batch]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them."""
        return {
            "model": self.model, "engine": self.engine, "settings": dict(self.settings),
            "statistic": self.statistic, "basis": self.basis, "overhead_s": self.overhead_s,
            "fits": [_fit_json(self.fits[batch]) for batch in sorted(self.fits)],
        }  # fmt: skip

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> RequestModel:
        """Read what `to_json` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError, UsageError : it is not that
        """
        fits = {int(each["batch"]): _fit_of(each) for each in told["fits"]}
        return cls(
            str(told["model"]), str(told["engine"]), dict(told["settings"]), fits, str(told["statistic"]),
            str(told["basis"]), float(told["overhead_s"]),
        )  # fmt: skip


def positions(prompt: int, output: int) -> int:
    """Positions that the steps after the first token look at together: prompt + 1, prompt + 2, ..."""
    steps = max(0, output - 1)
    return steps * prompt + steps * (steps + 1) // 2


def _fit_json(fit: BatchFit) -> dict[str, Any]:
    return {
        "batch": fit.batch, "quantum": fit.alpha.quantum,
        "prompts": list(fit.alpha.prompts), "alpha_s": list(fit.alpha.seconds),
        "beta_s": fit.beta_s, "gamma_s": fit.gamma_s, "band": list(fit.band),
        "errors": None if fit.errors is None else asdict(fit.errors),
        "residuals": [list(each) for each in fit.residuals], "trials": fit.trials,
    }  # fmt: skip


def _fit_of(told: Mapping[str, Any]) -> BatchFit:
    points = dict(zip(map(int, told["prompts"]), map(float, told["alpha_s"]), strict=True))
    low, high = map(float, told["band"])
    return BatchFit(
        int(told["batch"]), PromptCost.of(points, {}, int(told["quantum"])), float(told["beta_s"]),
        float(told["gamma_s"]), (low, high), None if told["errors"] is None else Errors(**told["errors"]),
        tuple((int(p), int(o), float(m), float(e)) for p, o, m, e in told["residuals"]), int(told["trials"]),
    )  # fmt: skip


def _ceil(prompt: int, quantum: int) -> int:
    return -(-prompt // quantum) * quantum


def _rising(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The closest values that never fall (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(values, weights, strict=True):
        mean, mass, count = value, weight, 1
        while pools and pools[-1][0] > mean:
            before, its_mass, its_count = pools.pop()
            mean = (before * its_mass + mean * mass) / (its_mass + mass)
            mass, count = mass + its_mass, count + its_count
        pools.append((mean, mass, count))
    return [mean for mean, _, count in pools for _ in range(count)]


def _slopes(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """Slopes that keep the cubic pieces monotone: weighted harmonic means (Fritsch and Butland, 1984)."""
    if len(xs) < 2:
        return [0.0] * len(xs)
    widths = [right - left for left, right in itertools.pairwise(xs)]
    steps = [
        (right - left) / width for (left, right), width in zip(itertools.pairwise(ys), widths, strict=True)
    ]
    inner = []
    for (w0, d0), (w1, d1) in itertools.pairwise(zip(widths, steps, strict=True)):
        if d0 * d1 <= 0:
            inner.append(0.0)
        else:
            first, second = 2 * w1 + w0, w1 + 2 * w0
            inner.append((first + second) / (first / d0 + second / d1))
    return [steps[0], *inner, steps[-1]]


def _curve(keys: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Linear and square cost a token beyond the last key, from the keys of the longest quarter."""
    last = keys[-1]
    top = [(k, s) for k, s in zip(keys, seconds, strict=True) if k >= last / 4]
    if len(top) < 3 or last == top[0][0]:
        return seconds[-1] / last, 0.0  # as the published rule scales it
    # s(last) - s(k) = line (last - k) + square (last^2 - k^2), least squares, neither below 0.
    rows = [(last - k, last**2 - k**2, seconds[-1] - s) for k, s in top[:-1]]
    xx, xy, yy = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    xz, yz = (sum(r[i] * r[2] for r in rows) for i in (0, 1))
    determinant = xx * yy - xy * xy
    line = (xz * yy - yz * xy) / determinant if determinant else -1.0
    square = (yz * xx - xz * xy) / determinant if determinant else -1.0
    if line < 0:
        line, square = 0.0, max(0.0, yz / yy)
    if square < 0:
        line, square = max(0.0, xz / xx), 0.0
    return line, square
