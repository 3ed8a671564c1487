"""The published estimate of a request's time, by its own formulas: what ours is compared with.

Prompt cost from a table at its next larger key, scaled by length; one constant cost a further token. Kept as
published, with what is wrong in it: short prompts are scaled towards nothing, and long contexts cost the same
a token as short ones.

References: arXiv 2305.02440 and its public code.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trimtab.errors import UsageError
from trimtab.machine.requests.fit import STATISTICS, Sample


@dataclass(frozen=True, slots=True)
class Published:
    """T(p, o) = alpha_p + beta (o - 1), batch 1.

    Parameters
    ----------
    alphas : {prompt: seconds}
    beta_s : seconds of each further token
    """

    alphas: Mapping[int, float]
    beta_s: float

    def alpha_s(self, prompt: int) -> float:
        """The smallest key not below the prompt, scaled by prompt/key; beyond the largest, that one is."""
        key = min((key for key in self.alphas if key >= prompt), default=max(self.alphas))
        return self.alphas[key] * prompt / key

    def total_s(self, prompt: int, output: int) -> float:
        return self.alpha_s(prompt) + self.beta_s * max(0, output - 1)


def published(samples: Iterable[Sample], statistic: str = "minimum") -> Published:
    """The idealized fit: alpha_p is T(p, 1), beta one least-squares line through what is left over all p.

    Raises
    ------
    UsageError : no samples of single requests
    """
    take = STATISTICS[statistic]
    firsts: dict[int, list[float]] = {}
    totals: dict[tuple[int, int], list[float]] = {}
    for sample in samples:
        if sample.batch == 1:
            firsts.setdefault(sample.prompt, []).append(sample.first_s)
            totals.setdefault((sample.prompt, sample.output), []).append(sample.total_s)
    if not firsts:
        raise UsageError("no single request was timed", "measure some: `trimtab measure llm`")
    alphas = {prompt: take(times) for prompt, times in firsts.items()}
    points = [(o - 1, take(times) - alphas[p]) for (p, o), times in totals.items() if o > 1]
    return Published(alphas, _through_zero(points))


def published_api(samples: Sequence[Sample], statistic: str = "minimum") -> Published:
    """The fit for a noisy interface: per prompt a line in o, alpha its value at o = 1; beta the mean slope.

    alpha is floored at that of the shortest prompt. With `mean` in place of `minimum` it is the raw variant,
    which keeps the contention.
    """
    take: Callable[[Sequence[float]], float] = STATISTICS[statistic]
    points: dict[int, dict[int, list[float]]] = {}
    for sample in samples:
        if sample.batch == 1:
            points.setdefault(sample.prompt, {}).setdefault(sample.output, []).append(sample.total_s)
    alphas, slopes = {}, []
    for prompt, by_output in points.items():
        if len(by_output) < 2:
            continue
        outputs = sorted(by_output)
        slope, at_zero = statistics.linear_regression(outputs, [take(by_output[o]) for o in outputs])
        alphas[prompt] = slope + at_zero
        slopes.append(slope)
    if not slopes:
        raise UsageError("a line needs two outputs of one prompt", "measure more outputs")
    floor = alphas[min(alphas)]
    return Published({p: max(a, floor) for p, a in alphas.items()}, statistics.fmean(slopes))


def _through_zero(points: Sequence[tuple[float, float]]) -> float:
    weight = sum(x * x for x, _ in points)
    return sum(x * y for x, y in points) / weight if weight else 0.0
