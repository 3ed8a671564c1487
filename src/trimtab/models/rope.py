"""Rotary position embedding: the angle per position of every rotated pair, for all scaling kinds.

Owns the arithmetic only. It does not know where the numbers came from (`config_gguf`, `config_hf`) nor how a
kernel applies them: pair i of a head is (x[i], x[i + dim/2]), rotated by `position * frequencies[i]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions turn into angles.

    Parameters
    ----------
    theta : base of the geometric series of wavelengths
    dim : rotated dimensions of a head (the rest pass through), even
    kind : one of `KINDS`
    factor : how much longer than the original context the scaled one is
    original_context : positions the model was trained on before scaling
    attention_factor : scale of queries and keys together; None takes the kind's own rule
    """

    theta: float
    dim: int
    kind: str = "default"
    factor: float = 1.0
    original_context: int = 0
    attention_factor: float | None = None
    low_freq_factor: float = 1.0  # llama3: wavelengths above original_context / low are fully scaled
    high_freq_factor: float = 4.0  # llama3: wavelengths below original_context / high are untouched
    beta_fast: float = 32.0  # yarn: pairs turning more often than this over the original context stay
    beta_slow: float = 1.0  # yarn: pairs turning less often are fully interpolated
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True
    short_factor: tuple[float, ...] = ()  # longrope: divisor of each pair up to the original context
    long_factor: tuple[float, ...] = ()  # longrope: the same for an engine started with more than that

    def frequencies(self, context: int) -> tuple[Floats, float]:
        """Angle per position of each pair, and the factor on cosine and sine.

        Parameters
        ----------
        context : positions the engine was started with; `dynamic` and `longrope` choose by it

        Returns
        -------
        float32 array (dim / 2,) and the attention factor
        """
        plain = _series(self.theta, self.dim)
        match self.kind:
            case "default":
                return plain, 1.0
            case "linear":
                return plain / np.float32(self.factor), 1.0
            case "dynamic":
                return self._dynamic(context), 1.0
            case "llama3":
                return self._llama3(plain), 1.0
            case "yarn":
                return self._yarn(), self._yarn_attention()
            case "longrope":
                return self._longrope(context), self._longrope_attention()
        raise ValueError(f"no rope kind {self.kind!r}; known: {', '.join(KINDS)}")

    def _dynamic(self, context: int) -> Floats:
        stretched = max(context, self.original_context) / self.original_context
        base = self.theta * (self.factor * stretched - (self.factor - 1)) ** (self.dim / (self.dim - 2))
        return _series(base, self.dim)

    def _llama3(self, plain: Floats) -> Floats:
        wavelength = np.float32(2 * math.pi) / plain
        scaled = plain / np.float32(self.factor)
        low, high = self.low_freq_factor, self.high_freq_factor
        smooth = (np.float32(self.original_context) / wavelength - np.float32(low)) / np.float32(high - low)
        between = (1 - smooth) * scaled + smooth * plain
        result = np.where(wavelength > self.original_context / low, scaled, between)
        return np.where(wavelength < self.original_context / high, plain, result).astype(np.float32)

    def _yarn(self) -> Floats:
        powers = _powers(self.theta, self.dim)
        keep, shrink = np.float32(1) / powers, np.float32(1) / (np.float32(self.factor) * powers)
        first, last = self._turns_at(self.beta_fast), self._turns_at(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, self.dim - 1)
        if first == last:
            last += 0.001  # a step, without dividing by zero
        pair = np.arange(self.dim // 2, dtype=np.float32)
        ramp = np.clip((pair - np.float32(first)) / np.float32(last - first), 0, 1)
        kept = 1 - ramp
        mixed: Floats = shrink * (1 - kept) + keep * kept
        return mixed

    def _turns_at(self, rotations: float) -> float:
        """The (fractional) pair that makes this many turns over the original context."""
        longest = math.log(self.original_context / (rotations * 2 * math.pi))
        return self.dim * longest / (2 * math.log(self.theta))

    def _yarn_attention(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _mscale(self.factor, self.mscale) / _mscale(self.factor, self.mscale_all_dim)
        return _mscale(self.factor, 1.0)

    def _longrope(self, context: int) -> Floats:
        divisors = self.long_factor if context > self.original_context else self.short_factor
        stretched: Floats = np.asarray(divisors, np.float32) * _powers(self.theta, self.dim)
        return np.reciprocal(stretched)

    def _longrope_attention(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1.0:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_context))


def _powers(theta: float, dim: int) -> Floats:
    """theta ** (2i / dim) for every pair, correctly rounded: the float64 power of the float32 exponent."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (np.float64(theta) ** exponents.astype(np.float64)).astype(np.float32)


def _series(theta: float, dim: int) -> Floats:
    return np.reciprocal(_powers(theta, dim))


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
