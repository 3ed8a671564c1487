"""What a request hands back: pieces while it runs, a completion at its end, text cut at stop strings.

Nothing here knows batches or pages; text comes from a token stream that only gives out whole characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from trimtab.engine.batch import Floats

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]


class TokenLogprob(NamedTuple):
    """One token's log probability, with the most probable tokens of its place, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Delta:
    """What is new since the last delta: usually one token, more when the reader was slower than the engine.

    Parameters
    ----------
    text : whole characters only, and nothing that may still become a stop string
    token_ids : new output tokens, the one that ended the output included
    logprobs : one entry a token when the request asked for them, else None
    finish_reason : why the output ended; None while it runs
    matched : the stop string or the token that ended the output, if one did
    """

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    matched: str | int | None = None


@dataclass(slots=True)
class Completion:
    """One finished output.

    Parameters
    ----------
    prompt_tokens, cached_tokens : length of the prompt, and how much of it was shared instead of computed
    prompt_logprobs : one entry a prompt token when asked for; the first is None, nothing precedes it
    index : which of the prompt's `n` outputs this is
    first_token_s, total_s : seconds from submission
    embedding : (width,), the mean of the prompt's final hidden states, when that was all the request wanted
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    matched: str | int | None = None
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    index: int = 0
    first_token_s: float = 0.0
    total_s: float = 0.0
    embedding: Floats | None = None


class TextStream(Protocol):
    """Tokens in, whole characters out (`Tokenizer.stream()`)."""

    def push(self, token_id: int, /) -> str: ...
    def flush(self) -> str: ...


class StopText:
    """Text of an output that ends before the first stop string; holds back what may become one.

    `parts` grows by whole pieces of text that are safe to show.
    """

    __slots__ = ("_held", "_stops", "_stream", "parts")

    def __init__(self, stream: TextStream, stops: tuple[str, ...]) -> None:
        self.parts: list[str] = []
        self._stream = stream
        self._stops = stops
        self._held = ""

    def push(self, token_id: int) -> str | None:
        """Take a token; the stop string that its text completes, if it does."""
        return self._take(self._stream.push(token_id))

    def flush(self) -> str | None:
        """The output ended for another reason: show what was held back, unless it completes a stop string."""
        matched = self._take(self._stream.flush())
        if matched is None and self._held:
            self.parts.append(self._held)
        self._held = ""
        return matched

    def _take(self, text: str) -> str | None:
        if not text:
            return None
        held = self._held + text
        hits = [(at, -len(stop), stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if hits:
            at, _, stop = min(hits)
            if at:
                self.parts.append(held[:at])
            self._held = ""
            return stop
        keep = max((_overlap(held, stop) for stop in self._stops), default=0)
        if keep < len(held):
            self.parts.append(held[: len(held) - keep])
        self._held = held[len(held) - keep :]
        return None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
