"""Which requests to time so that all others can be predicted, and the timing of them.

It starts with four prompts times four outputs in random order, and then goes where leaving a prompt out hurts
most, with two anchor points repeated throughout. A step is one run, so whoever has other work to time can do
that between the steps and both see the same weather. Token ids are drawn from a seed and never repeat.

References: arXiv 2305.02440; the adaptive grid replaces its 270 points.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trimtab.errors import UsageError
from trimtab.evaluate.targets import Target
from trimtab.machine.requests import fit as request_fit
from trimtab.machine.requests.fit import Sample
from trimtab.machine.requests.model import RequestModel

MOST_RUNS = 70
MOST_PROMPT = 1920
OUTPUTS = (2, 16, 64, 160)
QUICK_OUTPUTS = (2, 8, 24, 64)
TOLERANCE = 0.02
"""A left-out prompt that is predicted this well needs no neighbour."""
CLOSEST = 1.35
"""Neighbours whose lengths differ by less than this factor get nobody between them."""
_LEAST_S = 0.1  # a run repeats its request until it has taken so long, so that short ones are not all noise
_MOST_REPEATS = 8
_ANCHOR_EVERY = 7
_FIRST_ID = 256  # lower ones are often control tokens


class Calibration:
    """Times requests on a target, one run a `step`.

    Parameters
    ----------
    batches : numbers of requests that run together; the first one gets the adaptive part
    most_prompt : longest prompt, shortened to what the target's context holds
    outputs : four lengths of output
    most_runs, budget_s : it ends with whichever comes first; the budget counts the runs' own time
    avoid : prompts that must stay unmeasured, because they will be asked for as a test
    """

    def __init__(
        self, target: Target, *, batches: Sequence[int] = (1,), most_prompt: int = MOST_PROMPT,
        outputs: Sequence[int] = OUTPUTS, most_runs: int = MOST_RUNS, budget_s: float = 300.0, seed: int = 0,
        avoid: Sequence[int] = (), prior: RequestModel | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        longest = min(most_prompt, target.context - max(outputs) - 1)
        if longest < 64 or min(batches) < 1:
            raise UsageError(
                f"a context of {target.context} tokens is too short to time requests in",
                "raise `--context`",
                "context",
            )
        self.target, self.samples, self.dropped = target, list[Sample](), 0
        self.spent_s, self.runs = 0.0, 0
        self._batches, self._outputs = tuple(dict.fromkeys(batches)), tuple(outputs)
        self._budget_s, self._most_runs, self._prior = budget_s, most_runs, prior
        self._random, self._clock, self._avoid = random.Random(seed), clock, frozenset(avoid)
        self._longest, self._began = longest, clock()
        prompts = [self._allowed(round(longest ** (step / 3))) for step in range(4)]
        self._anchors = ((prompts[1], outputs[1], batches[0]), (prompts[2], outputs[2], batches[0]))
        self._queue = [(p, o, batches[0]) for p in prompts for o in outputs]
        for batch in self._batches[1:]:
            most = max(64, longest // batch)
            self._queue += [
                (self._allowed(p), o, batch)
                for p in (8, round(math.sqrt(8 * most)), most)
                for o in outputs[1:]
            ]
        self._random.shuffle(self._queue)
        first = (prompts[2], outputs[1], batches[0])  # tells what the others will cost, and costs little
        self._queue.remove(first)
        self._queue.append(first)

    def step(self) -> bool:
        """Time one run; False when there is nothing left to do or to spend."""
        for prompt, output, batch in self._candidates():
            if not self.runs or self.spent_s + self._expected(prompt, output, batch) <= self._budget_s:
                self._run(prompt, output, batch)
                return True
        return False

    def finish(self, say: Callable[[str], None] = lambda line: None) -> RequestModel:
        """All remaining steps, and the fit of what they saw."""
        while self.step():
            if not self.samples:
                continue
            last = self.samples[-1]
            say(
                f"{self.runs}: {last.batch} x ({last.prompt} + {last.output} tokens) "
                f"{last.total_s * 1e3:.0f} ms; {self.spent_s:.0f} s so far"
            )
        return self.fit()

    def fit(self, statistic: str = "minimum") -> RequestModel:
        """The model of what was timed so far.

        Raises
        ------
        UsageError : nothing was, and there is no prior
        """
        target = self.target
        return request_fit.fit(
            self.samples, statistic=statistic, prior=self._prior, model=target.model, engine=target.engine,
            settings=target.settings, overhead_s=target.overhead_s,
        )  # fmt: skip

    def report(self) -> dict[str, Any]:
        """What a fit should be judged by, beside its own errors."""
        return {
            "runs": self.runs,
            "requests": len(self.samples),
            "dropped": self.dropped,
            "seconds": self.spent_s,
            "drift": request_fit.drift(self.samples, self._anchors),
            "modes": dict(self.target.modes),
            "samples": [[s.prompt, s.output, s.batch, s.first_s, s.total_s, s.at_s] for s in self.samples],
        }

    # --- one run --------------------------------------------------------------------------------------------

    def _run(self, prompt: int, output: int, batch: int) -> None:
        began = self._clock()
        self.runs += 1
        for _ in range(_MOST_REPEATS):
            at = self._clock() - self._began
            times = self.target.run([self.tokens(prompt) for _ in range(batch)], output)
            if times is None:
                self.dropped += 1
            else:
                self.samples.append(Sample(prompt, output, batch, *times, at))
            if self._clock() - began >= _LEAST_S:
                break
        self.spent_s += self._clock() - began
        if self.dropped > 8 and not self.samples:
            raise UsageError(
                f"{self.target.engine} does not make as many tokens as it is asked for",
                "it must take `ignore_eos`",
                "engine",
            )

    def tokens(self, length: int) -> list[int]:
        """A prompt nobody has seen: token ids from the seed."""
        low = min(_FIRST_ID, self.target.vocabulary // 4)
        return self._random.choices(range(low, self.target.vocabulary), k=length)

    # --- which one ------------------------------------------------------------------------------------------

    def _candidates(self) -> Iterator[tuple[int, int, int]]:
        """What could be run next, in order; whoever asks takes the first one that it can afford."""
        if self.runs >= self._most_runs:
            return
        if self.runs % _ANCHOR_EVERY == _ANCHOR_EVERY - 1:
            yield self._anchors[self.runs // _ANCHOR_EVERY % 2]
        while self._queue:
            yield self._queue.pop()
        point = self._worst() or self._thinnest()
        if point is not None:
            yield point

    def _worst(self) -> tuple[int, int, int] | None:
        """A new prompt beside the one that the others predict worst; None when all are predicted well."""
        batch = self._batches[0]
        known = sorted({s.prompt for s in self.samples if s.batch == batch})
        errors = request_fit.left_out(self.samples, batch) if len(known) > 2 else {}
        for prompt, error in sorted(errors.items(), key=lambda pair: -pair[1]):
            if error <= TOLERANCE:
                break
            at = known.index(prompt)
            gaps = [(known[at - 1], prompt), (prompt, known[at + 1])]
            for low, high in sorted(gaps, key=lambda gap: gap[0] / gap[1]):
                new = self._allowed(round(math.sqrt(low * high)))
                if low < new < high and high >= CLOSEST * low:
                    return new, self._random.choice(self._outputs[:-1]), batch
        return None

    def _thinnest(self) -> tuple[int, int, int] | None:
        """The prompt with the fewest trials, with a long output: what is left is noise."""
        batch = self._batches[0]
        counts = Counter(s.prompt for s in self.samples if s.batch == batch)
        if not counts:
            return None
        fewest = min(counts.values())
        prompt = self._random.choice([p for p, count in counts.items() if count == fewest])
        return prompt, self._random.choice(self._outputs[1:]), batch

    def _allowed(self, prompt: int) -> int:
        """The nearest length that may be measured."""
        near = (prompt + step for step in (0, 1, -1, 2, -2, 3, -3))
        return next((p for p in near if 1 <= p <= self._longest and p not in self._avoid), prompt)

    def _expected(self, prompt: int, output: int, batch: int) -> float:
        """About what a run will take, from the nearest one so far."""
        own = [s for s in self.samples if s.batch == batch and s.output > 1]
        if not own:
            return 0.0
        near = min(own, key=lambda s: abs(math.log(s.prompt / prompt)))
        steps = min((s.total_s - s.first_s) / (s.output - 1) for s in own)
        return near.first_s * prompt / near.prompt + steps * (output - 1)
