"""A target with a known cost, on a simulated clock: what a calibration should find."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BETA, GAMMA = 3e-3, 1.2e-6


class MadeTarget:
    """T = alpha(p) + sum(beta + gamma c), times noise; wrong lengths on demand."""

    model, engine, context, vocabulary, overhead_s = "made#1", "made", 4096, 500, 0.0
    settings: Mapping[str, Any] = {"threads": 1}
    modes: Mapping[str, str] = {"prefix caching": "off"}

    def __init__(self, noise: float = 0.0, seed: int = 3, miscounts: bool = False) -> None:
        self.now, self.prompts = 0.0, list[tuple[int, ...]]()
        self._noise, self._random, self._miscounts = noise, random.Random(seed), miscounts

    def alpha(self, prompt: int) -> float:
        return 2e-3 + 4e-4 * prompt + 8e-8 * prompt**2

    def total(self, prompt: int, output: int) -> float:
        return self.alpha(prompt) + sum(BETA + GAMMA * (prompt + step) for step in range(1, output))

    def run(self, prompts: Sequence[Sequence[int]], output: int) -> tuple[float, float] | None:
        self.prompts += [tuple(each) for each in prompts]
        slow = 1 + self._noise * self._random.expovariate(1.0)
        length, batch = len(prompts[0]), len(prompts)
        first = self.alpha(length) * batch * slow
        total = first + (self.total(length, output) - self.alpha(length)) * slow
        self.now += total
        return None if self._miscounts else (first, total)

    def clock(self) -> float:
        return self.now

    def memory_bytes(self) -> tuple[int, str]:
        return 1000, "made"

    def score(self, text: str) -> Any:
        return np.full(10, -2.0, np.float32)

    def logits(self, tokens: Sequence[int]) -> Any:
        return np.zeros((len(tokens), 8), np.float32)

    def encode(self, text: str) -> list[int]:
        return [1] * len(text.split())

    def shape(self) -> None:
        return None

    def close(self) -> None:
        pass
