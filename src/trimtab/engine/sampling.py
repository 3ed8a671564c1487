"""How the next token is chosen: a request's parameters, their packed rows, and the reference in numpy.

The packed rows (SAMPLING, ADJUST) are what a step hands to the native sampler; `sample_reference` says what
that sampler must return. Nothing here knows sequences, pages or text: stop strings are only carried.

The order is fixed. Log-probabilities come from the raw logits. Then repetition, presence and frequency
penalties, bias and mask change the logits; temperature 0 takes the highest (lowest id among equals);
otherwise candidates, sorted by logit (highest first) and id, are divided by the temperature, cut by top_k,
top_p and min_p, and drawn by inverse CDF. A NaN counts as -inf. Where the highest logit is infinite, the
tokens that share it share all the probability equally.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trimtab.engine.grammar import Grammar
from trimtab.errors import UsageError

# One row for each wanted logits row; native/sampler.h holds the same layout as struct SamplingRow.
SAMPLING = np.dtype(
    [
        ("temperature", "f4"),
        ("top_p", "f4"),
        ("min_p", "f4"),
        ("repetition", "f4"),
        ("presence", "f4"),
        ("frequency", "f4"),
        ("top_k", "i4"),
        ("top_logprobs", "i4"),  # -1: no log-probability at all, 0: the token's own, n: and the n best
        ("score", "i4"),  # >= 0: return this token and its log-probability instead of choosing one
        ("mask", "i4"),  # one more than the row of the batch's masks that applies; 0: every token is allowed
        ("seed", "u8"),
        ("draw", "u8"),  # the output position, so that a draw never depends on the batch
    ]
)

# One entry for each token of a row whose logit changes; native/sampler.h: struct AdjustEntry.
ADJUST = np.dtype([("token", "i4"), ("count", "i4"), ("in_prompt", "i4"), ("bias", "f4")])

MAX_LOGPROBS = 20
MAX_CHOICES = 128
MAX_STOPS = 64

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request chooses its tokens and when it ends; checked once, here.

    Parameters
    ----------
    temperature : 0 (always the most likely token) to 100; 1 keeps the model's own distribution
    top_p : keep the fewest tokens whose probability reaches this share, 0 to 1
    top_k : keep this many most likely tokens; 0 keeps all
    min_p : keep tokens at least this fraction as likely as the most likely one, 0 to 1
    repetition_penalty : above 1 discourages tokens of the prompt and the output, (0, 100]
    presence_penalty, frequency_penalty : subtracted once, and for each occurrence in the output, -2 to 2
    logit_bias : token id -> value added to its logit, -100 to 100
    seed : equal seeds give equal outputs; None draws a new one for each request
    stop : texts that end the output (one, or up to 64); they are not part of it
    stop_token_ids : tokens that end the output
    max_tokens : longest output; None lets it run to the context's end
    min_tokens : no end-of-text before this many tokens
    ignore_eos : run on over the model's end-of-text token
    logprobs, prompt_logprobs : report each token's log-probability and this many alternatives, 0 to 20
    n : outputs for the prompt, 1 to 128
    grammar : what the output must look like; see `trimtab.engine.grammar.Grammar`

    Raises
    ------
    UsageError : a value is out of range or of the wrong type; `param` names it
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    max_tokens: int | None = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        _check_float("temperature", self.temperature, 0.0, 100.0)
        _check_float("top_p", self.top_p, 0.0, 1.0)
        _check_int("top_k", self.top_k, 0, 2**31 - 1)
        _check_float("min_p", self.min_p, 0.0, 1.0)
        _check_float("repetition_penalty", self.repetition_penalty, 0.0, 100.0)
        if np.float32(self.repetition_penalty) == 0.0:  # also what would round to 0 in the packed row
            raise _wrong("repetition_penalty", self.repetition_penalty, "a number above 0 and up to 100")
        _check_float("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_float("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None:
            _check_int("seed", self.seed, -(2**63), 2**64 - 1)
        if self.max_tokens is not None:
            _check_int("max_tokens", self.max_tokens, 0, 2**31 - 1)
        _check_int("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise _wrong("min_tokens", self.min_tokens, f"at most max_tokens ({self.max_tokens})")
        if not isinstance(self.ignore_eos, bool):
            raise _wrong("ignore_eos", self.ignore_eos, "true or false")
        if self.logprobs is not None:
            _check_int("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.prompt_logprobs is not None:
            _check_int("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        _check_int("n", self.n, 1, MAX_CHOICES)
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise _wrong("grammar", self.grammar, "a Grammar")
        if self.logit_bias:
            object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))
        if self.stop != ():
            object.__setattr__(self, "stop", _checked_stops(self.stop))
        if self.stop_token_ids != ():
            object.__setattr__(self, "stop_token_ids", _checked_ids("stop_token_ids", self.stop_token_ids))

    @property
    def greedy(self) -> bool:
        """No randomness: the most likely token always."""
        return self.temperature == 0.0

    @property
    def adjusts(self) -> bool:
        """Some logits change with the prompt, the output or a bias, so rows carry ADJUST entries."""
        return bool(self.logit_bias) or self.penalises

    @property
    def penalises(self) -> bool:
        """The output so far changes the next token's logits."""
        return not (
            self.repetition_penalty == 1.0 and self.presence_penalty == 0.0 and self.frequency_penalty == 0.0
        )

    def check_vocab(self, vocab_size: int) -> None:
        """Refuse token ids that the model does not have; called where the model is known."""
        for param, ids in (("logit_bias", self.logit_bias), ("stop_token_ids", self.stop_token_ids)):
            for token in ids:
                if token >= vocab_size:
                    raise _wrong(param, token, f"token ids below {vocab_size}, the size of the vocabulary")


class Sampled(NamedTuple):
    """One row's answer; unused places of the top lists hold token -1 and log-probability -inf."""

    token: int
    logprob: float  # NaN where none was asked for
    top_tokens: Ints
    top_logprobs: Floats


def sampling_row(
    params: SamplingParams, seed: int, *, draw: int = 0, score: int = -1, top_logprobs: int | None = None
) -> npt.NDArray[Any]:
    """Pack parameters into one SAMPLING row, shape (1,).

    Parameters
    ----------
    seed : the sequence's own seed, already chosen when `params.seed` is None; taken modulo 2**64
    draw : output position of the token to choose
    score : token to score instead of choosing one, or -1
    top_logprobs : replaces what `params.logprobs` asks for (prompt rows use `params.prompt_logprobs`)
    """
    if top_logprobs is None:
        top_logprobs = -1 if params.logprobs is None else params.logprobs
    row = (
        params.temperature, params.top_p, params.min_p,
        params.repetition_penalty, params.presence_penalty, params.frequency_penalty,
        params.top_k, top_logprobs, score, 0, seed % 2**64, draw,
    )  # fmt: skip
    return np.array([row], dtype=SAMPLING)


def adjust_entries(
    params: SamplingParams, prompt: Sequence[int] = (), output: Sequence[int] = ()
) -> npt.NDArray[Any]:
    """ADJUST entries of a sequence, one for each token that can matter, ascending by token."""
    counts: dict[int, list[int]] = {token: [0, 0] for token in params.logit_bias}
    if params.penalises:
        for token in output:
            counts.setdefault(token, [0, 0])[0] += 1
        if params.repetition_penalty != 1.0:
            for token in prompt:
                counts.setdefault(token, [0, 0])[1] = 1
    bias = params.logit_bias
    rows = [(token, *counts[token], bias.get(token, 0.0)) for token in sorted(counts)]
    return np.array(rows, dtype=ADJUST)


def uniform(seed: int, draw: int) -> float:
    """The random number in [0, 1) of one output position: two SplitMix64 mixes, top 53 bits.

    References: Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    bits = _mix((_mix(seed) + (draw + 1) * 0x9E3779B97F4A7C15) % 2**64)
    return (bits >> 11) * 2.0**-53


def sample_reference(
    logits: Floats,
    row: Any,
    adjust: npt.NDArray[Any] | None = None,
    mask: npt.NDArray[np.uint32] | None = None,
    width: int | None = None,
) -> Sampled:
    """Choose or score one row's token; the native sampler is tested against this.

    Parameters
    ----------
    logits : (vocab,) float32, after the model's own soft cap
    row : one SAMPLING record
    adjust : ADJUST entries, applied in order; ids outside the vocabulary are passed over
    mask : (ceil(vocab / 32),) bit t % 32 of word t // 32 allows token t; None allows all
    width : length of the top lists; by default what the row asks for

    Returns
    -------
    the token, its log-probability and the most likely tokens under the raw logits; token -1 when the mask
    allows nothing
    """
    raw = np.where(np.isnan(logits), np.float32(-np.inf), logits)
    asked = int(row["top_logprobs"])
    score = int(row["score"])
    token = score if score >= 0 else _choose(logits, row, adjust, mask)

    width = max(asked, 0) if width is None else width
    top_tokens = np.full(width, -1, np.int32)
    top_logprobs = np.full(width, -np.inf, np.float32)
    if asked < 0 and score < 0:
        return Sampled(token, math.nan, top_tokens, top_logprobs)
    logprobs = _logprobs(raw)  # (vocab,)
    count = min(max(asked, 0), width, raw.size)
    best = np.argsort(-raw, kind="stable")[:count]
    top_tokens[:count] = best
    top_logprobs[:count] = logprobs[best]
    logprob = float(logprobs[token]) if 0 <= token < raw.size else -math.inf
    return Sampled(token, logprob, top_tokens, top_logprobs)


def kept_candidates(x: Floats, row: Any) -> tuple[Ints, Doubles]:
    """Tokens that a draw from adjusted logits may return, most likely first, and their weights."""
    order = np.argsort(-x, kind="stable").astype(np.int32)
    order = order[x[order] > -np.inf]
    if 0 < row["top_k"] < order.size:
        order = order[: row["top_k"]]
    weights = _weights(x, row["temperature"])[order]
    if row["top_p"] < 1.0 and order.size:
        cumulative = np.cumsum(weights)
        crossing = int(np.searchsorted(cumulative, float(row["top_p"]) * cumulative[-1]))
        order, weights = order[: crossing + 1], weights[: crossing + 1]
    likely = weights >= row["min_p"]
    return order[likely], weights[likely]


def adjusted_logits(
    logits: Floats,
    row: Any,
    adjust: npt.NDArray[Any] | None = None,
    allowed: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    """Logits after penalties, bias and mask; every step is rounded to float32 as in the native code."""
    x = np.where(np.isnan(logits), np.float32(-np.inf), logits)
    with np.errstate(over="ignore", invalid="ignore"):
        for entry in () if adjust is None else adjust:
            token, count = int(entry["token"]), int(entry["count"])
            if not 0 <= token < x.size:
                continue
            value = x[token]
            if count > 0 or entry["in_prompt"]:
                value = value / row["repetition"] if value > 0 else value * row["repetition"]
            if count > 0:
                value = value - row["presence"]
                value = value - row["frequency"] * np.float32(count)
            value = value + entry["bias"]
            x[token] = np.float32(-np.inf) if np.isnan(value) else value
    return x if allowed is None else np.where(allowed, x, np.float32(-np.inf))


def allowed_tokens(mask: npt.NDArray[np.uint32], vocab_size: int) -> npt.NDArray[np.bool_]:
    """One row of a mask as (vocab,) booleans."""
    octets = np.ascontiguousarray(mask, dtype="<u4").view(np.uint8)
    return np.unpackbits(octets, bitorder="little")[:vocab_size].astype(bool)


def _choose(logits: Floats, row: Any, adjust: npt.NDArray[Any] | None, mask: Any) -> int:
    allowed = None if mask is None else allowed_tokens(mask, logits.size)
    x = adjusted_logits(logits, row, adjust, allowed)
    if x.max() == -np.inf:
        if allowed is None:
            return 0
        return int(np.argmax(allowed)) if allowed.any() else -1
    if row["temperature"] <= 0.0:
        return int(np.argmax(x))
    tokens, weights = kept_candidates(x, row)
    cumulative = np.cumsum(weights)
    crossing = np.searchsorted(cumulative, uniform(int(row["seed"]), int(row["draw"])) * cumulative[-1])
    return int(tokens[crossing])


def _weights(x: Floats, temperature: np.float32) -> Doubles:
    """exp((x - max) / temperature); an infinite maximum takes all the weight."""
    highest = x.max()
    if np.isinf(highest):
        return np.where(x == highest, 1.0, 0.0)
    with np.errstate(over="ignore", under="ignore"):
        weights: Doubles = np.exp(((x - highest) / temperature).astype(np.float64))
    return weights


def _logprobs(raw: Floats) -> Floats:
    """Log softmax, worked out in float64; what float32 cannot hold is -inf."""
    highest = raw.max()
    if np.isinf(highest):
        share = -math.log(np.count_nonzero(raw == highest))
        return np.where(raw == highest, share, -math.inf).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        shifted = raw.astype(np.float64) - float(highest)
        logprobs = shifted - math.log(np.exp(shifted).sum())
        return logprobs.astype(np.float32)


def _mix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def _wrong(param: str, got: object, allowed: str) -> UsageError:
    return UsageError(f"{param} is {got!r}; allowed: {allowed}", param=param)


def _check_float(param: str, value: object, low: float, high: float) -> None:
    # A comparison with NaN is false, so NaN is refused by the range.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _wrong(param, value, f"a number from {low:g} to {high:g}")


def _check_int(param: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(param, value, f"a whole number from {low} to {high}")


def _checked_ids(param: str, ids: object) -> tuple[int, ...]:
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Sequence):
        raise _wrong(param, ids, "a list of token ids")
    for token in ids:
        _check_int(param, token, 0, 2**31 - 1)
    return tuple(ids)


def _checked_bias(bias: object) -> dict[int, float]:
    if not isinstance(bias, Mapping):
        raise _wrong("logit_bias", bias, "a table from token id to number")
    for token, value in bias.items():
        _check_int("logit_bias", token, 0, 2**31 - 1)
        _check_float("logit_bias", value, -100.0, 100.0)
    return dict(bias)


def _checked_stops(stop: object) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, Sequence) or not all(isinstance(text, str) and text for text in stops):
        raise _wrong("stop", stop, "a text or a list of texts, none of them empty")
    if len(stops) > MAX_STOPS:
        raise _wrong("stop", f"{len(stops)} texts", f"at most {MAX_STOPS}")
    return tuple(stops)
