"""From timed requests to a `RequestModel`: noise is taken off, and the error between the points estimated.

Each request gives two figures, the time of its first token and that of the others, so every request tells
something about its prompt and something about the steps. The error is estimated by leaving out one prompt
length at a time, with all its requests. Nothing here measures.

References: arXiv 2305.02440 (minimum over trials, floor at the shortest prompt).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.errors import UsageError
from trimtab.machine.requests.model import BatchFit, Errors, PromptCost, RequestModel, positions

STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "minimum": min,
    "median": statistics.median,
    "mean": statistics.fmean,
}
QUANTA = (1, 2, 4, 8, 16, 32)
_WORTH = 0.75  # a quantum must lower the left-out error to this share to be believed
_NEAR = 3.0
_FEW_STEPS = 8.0  # below about so many steps one stall decides a run's decode time
_LEAST_BAND = 0.02
_SLOW_WEIGHT = 0.5
_ENOUGH = 8  # prompts, before their curve is believed more than they are
_SMOOTH_FROM, _MISFIT = 64, 0.15
_BELIEVED = 0.05  # a spread for which one trial counts as much as the curve


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed run of `batch` equal requests.

    Parameters
    ----------
    first_s, total_s : until the last of them had its first token, and was complete
    at_s : when it began, by the clock of the measurement
    """

    prompt: int
    output: int
    batch: int
    first_s: float
    total_s: float
    at_s: float = 0.0


def fit(
    samples: Iterable[Sample], *, statistic: str = "minimum", prior: RequestModel | None = None,
    model: str = "", engine: str = "", settings: Mapping[str, Any] | None = None, overhead_s: float = 0.0,
) -> RequestModel:  # fmt: skip
    """Fit every batch that was measured.

    Parameters
    ----------
    statistic : of several trials of one point: `minimum` takes contention off, `median` keeps what is usual
    prior : fills in where there are too few points
    overhead_s : of a null request; taken off every sample

    Raises
    ------
    UsageError : no samples and no prior, or a statistic that nobody knows
    """
    if statistic not in STATISTICS:
        raise UsageError(f"no statistic `{statistic}`", f"there is {', '.join(STATISTICS)}", "statistic")
    by_batch: dict[int, list[Sample]] = {}
    for sample in samples:
        by_batch.setdefault(sample.batch, []).append(_without(sample, overhead_s))
    fits: dict[int, BatchFit] = {} if prior is None else dict(prior.fits)
    thin = prior is not None and not by_batch
    for batch, own in by_batch.items():
        before = None if prior is None else prior.fits.get(batch)
        fits[batch] = _with_errors(own, batch, statistic, before)
        thin = thin or len({sample.prompt for sample in own}) < 4
    if not fits:
        raise UsageError("no request was timed", "measure some: `trimtab measure llm`")
    basis = "prior" if not by_batch else "scaled prior" if thin and prior is not None else "fitted"
    return RequestModel(model, engine, dict(settings or {}), fits, statistic, basis, overhead_s)


def left_out(samples: Sequence[Sample], batch: int, statistic: str = "minimum") -> dict[int, float]:
    """|relative error| of alpha at each inner prompt, predicted from all other prompts."""
    firsts, counts = _firsts([s for s in samples if s.batch == batch], STATISTICS[statistic])
    return _left_out_alpha(firsts, counts, _quantum(firsts, counts))


def drift(samples: Iterable[Sample], anchors: Iterable[tuple[int, int, int]]) -> float:
    """Largest over least time of (prompt, output, batch) points that were run throughout; 1 for no change.

    The thirds of the measurement are compared by their medians, so that one slow run is no drift.
    """
    worst, all_samples = 1.0, list(samples)
    for anchor in anchors:
        runs = [s for s in all_samples if (s.prompt, s.output, s.batch) == anchor]
        if len(runs) < 6:
            continue
        ordered = [s.total_s for s in sorted(runs, key=lambda s: s.at_s)]
        third = len(ordered) // 3
        parts = [ordered[:third], ordered[third:-third], ordered[-third:]]
        middles = [statistics.median(part) for part in parts]
        worst = max(worst, max(middles) / min(middles))
    return worst


def _without(sample: Sample, overhead_s: float) -> Sample:
    if not overhead_s:
        return sample
    least = 1e-6
    return replace(
        sample,
        first_s=max(least, sample.first_s - overhead_s),
        total_s=max(2 * least, sample.total_s - overhead_s),
    )


def _with_errors(own: Sequence[Sample], batch: int, statistic: str, prior: BatchFit | None) -> BatchFit:
    """The fit of one batch, with its residuals, and its errors at left-out prompts."""
    take = STATISTICS[statistic]
    firsts, counts = _firsts(own, take)
    quantum = _quantum(firsts, counts, 1 if prior is None else prior.alpha.quantum)
    whole = _fit_batch(own, batch, take, quantum, prior)
    points: dict[tuple[int, int], list[float]] = {}
    for sample in own:
        points.setdefault((sample.prompt, sample.output), []).append(sample.total_s)
    measured = {point: take(totals) for point, totals in points.items()}
    residuals = tuple((p, o, t, whole.total_s(p, o)) for (p, o), t in sorted(measured.items()))
    ratios = []
    for prompt in sorted(firsts)[1:-1]:
        others = [sample for sample in own if sample.prompt != prompt]
        without = _fit_batch(others, batch, take, quantum, prior)
        ratios += [t / without.total_s(p, o) for (p, o), t in measured.items() if p == prompt]
    errors, band = None, (1.0, 1.0)
    if len(ratios) >= 3:
        off = sorted(abs(ratio - 1) for ratio in ratios)
        errors = Errors(statistics.fmean(off), float(np.quantile(off, 0.95)), off[-1], len(off))
        low, high = np.quantile(ratios, [0.05, 0.95])
        band = min(float(low), 1 - _LEAST_BAND), max(float(high), 1 + _LEAST_BAND)
    return replace(whole, residuals=residuals, errors=errors, band=band, trials=len(own))


def _fit_batch(
    own: Sequence[Sample],
    batch: int,
    take: Callable[[Sequence[float]], float],
    quantum: int,
    prior: BatchFit | None,
) -> BatchFit:
    firsts, counts = _firsts(own, take)
    if prior is not None and len(firsts) < 4:
        firsts, counts = _scaled(firsts, prior), {}
        quantum = 1
    beta, gamma = _decode(own, batch, take, prior)
    smooth = smoothed(firsts, counts, _spread(own, firsts), slow=_slow(take))
    return BatchFit(batch, PromptCost.of(smooth, counts, quantum), beta, gamma)


def _firsts(
    own: Sequence[Sample], take: Callable[[Sequence[float]], float]
) -> tuple[dict[int, float], dict[int, float]]:
    """alpha as measured, by prompt, and how often; every request tells it, whatever its output."""
    found: dict[int, list[float]] = {}
    for sample in own:
        found.setdefault(sample.prompt, []).append(sample.first_s)
    return {p: take(s) for p, s in found.items()}, {p: float(len(s)) for p, s in found.items()}


def _decode(
    own: Sequence[Sample],
    batch: int,
    take: Callable[[Sequence[float]], float],
    prior: BatchFit | None,
) -> tuple[float, float]:
    """beta and gamma from the time after the first token; relative errors, large ones weighted down."""
    found: dict[tuple[int, int], list[float]] = {}
    for sample in own:
        if sample.output > 1:
            found.setdefault((sample.prompt, sample.output), []).append(sample.total_s - sample.first_s)
    points = {point: max(take(times), 1e-9) for point, times in found.items()}
    if not points:
        return (prior.beta_s, prior.gamma_s) if prior else (0.0, 0.0)
    steps = np.array([o - 1 for _, o in points], float)
    looked = np.array([batch * positions(p, o) for p, o in points], float)
    seconds = np.array(list(points.values()))
    trials = np.array([len(found[point]) for point in points], float)
    weights = np.sqrt(trials * steps / (steps + _FEW_STEPS)) / seconds
    per_step = looked / steps
    if per_step.max() < 1.5 * per_step.min() or len(points) < 3:  # one context cannot tell gamma
        gamma = prior.gamma_s if prior else 0.0
        rest = np.maximum(seconds - gamma * looked, 0.1 * seconds)
        return float(np.average(rest / steps, weights=(weights * seconds) ** 2)), gamma
    design = np.stack([steps, looked], axis=1)
    huber = take is not STATISTICS["mean"]
    beta, gamma = map(float, _robust(design, seconds, weights, huber=huber, slow=_slow(take)))
    if gamma < 0:
        beta, gamma = float(np.average(seconds / steps, weights=(weights * seconds) ** 2)), 0.0
    if beta < 0:
        beta, gamma = 0.0, float(np.average(seconds / looked, weights=(weights * seconds) ** 2))
    return beta, gamma


def smoothed(
    firsts: Mapping[int, float], counts: Mapping[int, float], spread: float, *, slow: float = 1.0
) -> dict[int, float]:
    """Prompt costs, the long ones drawn towards a constant, a line and a square, the fewer trials the more.

    What a prompt costs beside those three (a change of kernel) is believed once it was seen often enough for
    the noise; on a quiet machine that is at once. Of short prompts every block of rows is a step.

    Parameters
    ----------
    spread : usual relative deviation of one trial
    slow : weight of points above the curve
    """
    if len(firsts) < _ENOUGH or not counts:
        return dict(firsts)
    keys = sorted(firsts)
    seconds = np.array([firsts[p] for p in keys])
    design = np.array([[1.0, p, p * p] for p in keys])
    weights = np.sqrt([counts[p] for p in keys]) / seconds
    used = [0, 1, 2]
    while True:
        found = _robust(design[:, used], seconds, weights, huber=True, slow=slow)
        if len(used) == 1 or float(found.min()) >= 0:
            break
        del used[int(found.argmin())]
    off = np.log(seconds / np.maximum(design[:, used] @ found, 1e-3 * seconds))
    often = [abs(o) for o, p in zip(off, keys, strict=True) if p >= _SMOOTH_FROM]
    if often and statistics.median(often) > _MISFIT:
        return dict(firsts)  # this engine's curve is no such one
    doubt = (spread / _BELIEVED) ** 2
    return {
        p: firsts[p] * math.exp(-float(o) * doubt / (doubt + counts[p])) if p >= _SMOOTH_FROM else firsts[p]
        for p, o in zip(keys, off, strict=True)
    }


def _spread(own: Sequence[Sample], firsts: Mapping[int, float]) -> float:
    """Usual relative deviation of a trial from what was taken of its prompt; 0 where nothing came twice."""
    often = Counter(sample.prompt for sample in own)
    off = [abs(math.log(s.first_s / firsts[s.prompt])) for s in own if often[s.prompt] > 1]
    return 1.4826 * statistics.median(off) if off else 0.0


def _slow(take: Callable[[Sequence[float]], float]) -> float:
    """What a point above the curve weighs: contention only adds, and few trials still have some."""
    return _SLOW_WEIGHT if take is STATISTICS["minimum"] else 1.0


def _robust(
    design: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64], weights: npt.NDArray[np.float64],
    *, huber: bool, slow: float = 1.0,
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Least squares of weighted residuals.

    Parameters
    ----------
    huber : residuals beyond 1.5 usual deviations count linearly
    slow : weight of points above the curve
    """
    factor: npt.NDArray[np.float64] = np.ones(len(seconds))
    found: npt.NDArray[Any] = np.zeros(design.shape[1])
    for _ in range(8 if huber else 1):
        scale = weights * np.sqrt(factor)
        found = np.linalg.lstsq(design * scale[:, None], seconds * scale, rcond=None)[0]
        above = seconds - design @ found
        off = np.abs(above) * weights
        usual = max(1.4826 * float(np.median(off)), 1e-6)
        factor = np.minimum(1.0, 1.5 * usual / np.maximum(off, 1e-12)).astype(np.float64)
        factor *= np.where(above > 0, slow, 1.0)
    return found


def _left_out_alpha(
    firsts: Mapping[int, float], counts: Mapping[int, float], quantum: int
) -> dict[int, float]:
    errors = {}
    for prompt in sorted(firsts)[1:-1]:
        others = {p: s for p, s in firsts.items() if p != prompt}
        errors[prompt] = abs(PromptCost.of(others, counts, quantum).at(prompt) / firsts[prompt] - 1)
    return errors


def _quantum(firsts: Mapping[int, float], counts: Mapping[int, float], expected: int = 1) -> int:
    """The row block that explains the prompts best by left-out errors; the expected one wins unless clearly
    beaten.
    """
    keys = sorted(firsts)
    # Far from its neighbours a prompt tells of the curve, and not of blocks.
    near = [p for low, p, high in zip(keys, keys[1:], keys[2:], strict=False) if high <= _NEAR * low]
    if len(near) < 3:
        return expected
    losses = {}
    for quantum in {*QUANTA, expected}:
        errors = _left_out_alpha(firsts, counts, quantum)
        losses[quantum] = statistics.fmean(errors[p] for p in near)
    best = min(losses, key=lambda quantum: (losses[quantum], quantum))
    return best if losses[best] < _WORTH * losses[expected] else expected


def _scaled(firsts: Mapping[int, float], prior: BatchFit) -> dict[int, float]:
    """The prior's curve, moved onto the measured points; between them the factor changes steadily."""
    if not firsts:
        return dict(zip(prior.alpha.prompts, prior.alpha.seconds, strict=True))
    known = sorted(firsts)
    factors = [math.log(firsts[p] / prior.alpha.at(p)) for p in known]
    places = sorted({*prior.alpha.prompts, *known})
    moved = np.interp([math.log(p) for p in places], [math.log(p) for p in known], factors)
    return {p: prior.alpha.at(p) * math.exp(by) for p, by in zip(places, moved, strict=True)}
