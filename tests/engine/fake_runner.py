"""A toy language model behind the runner's interface, and what it must say when a request is alone.

Keys and values are replaced by the tokens themselves: a step writes them into pages and every wanted row
reads its whole context back through its page table. A wrong page, position, chunk or neighbour changes the
output or fails a check.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from trimtab.engine.batch import PAGE_TOKENS, Batch, StepResult
from trimtab.engine.sampling import SamplingParams, adjust_entries, sample_reference, sampling_row

VOCAB = 24
WIDTH = 8
EOS = 3


def toy_logits(context: np.ndarray, memory: int) -> np.ndarray:
    """Logits after a context; only its last `memory` tokens matter, and few of them make it repeat."""
    key = zlib.crc32(np.ascontiguousarray(context[-memory:], np.int32).tobytes())
    return np.random.default_rng(key).normal(size=VOCAB).astype(np.float32) * 3


def toy_hidden(context: np.ndarray, memory: int) -> np.ndarray:
    """A hidden state that tells a context from every other; some values are large, so that sums matter."""
    return toy_logits(context, memory)[:WIDTH] * np.float32(100)


@dataclass
class FakeRunner:
    """Checks every batch it is given against its own pages."""

    num_pages: int = 64
    max_rows: int = 32
    max_wanted: int = 8
    context: int = 256
    memory_tokens: int = 1000
    fail_at: int = -1
    steps: int = 0
    rows: int = 0
    closed: bool = False
    memory: dict[str, int] = field(default_factory=lambda: {"weights": 1, "scratch": 2, "pages": 3})

    def __post_init__(self) -> None:
        self.config = SimpleNamespace(vocab_size=VOCAB, context=self.context, hidden=WIDTH)
        self.pages = np.full((self.num_pages, PAGE_TOKENS), -1, np.int32)

    def step(self, batch: Batch) -> StepResult:
        self.steps += 1
        if self.steps == self.fail_at:
            raise RuntimeError("the fake runner was told to fail")
        top = int(max(0, batch.sampling["top_logprobs"].max(initial=0)))
        rows = []
        contexts, hidden = self._contexts(batch)
        for place, context in enumerate(contexts):
            adjust = batch.adjust[batch.adjust_start[place] : batch.adjust_start[place + 1]]
            logits = toy_logits(context, self.memory_tokens)
            which = int(batch.sampling[place]["mask"])
            mask = batch.mask[which - 1] if batch.mask is not None and which else None
            rows.append(sample_reference(logits, batch.sampling[place], adjust, mask, top))
        return StepResult(
            np.array([row.token for row in rows], np.int32),
            np.array([row.logprob for row in rows], np.float32),
            np.array([row.top_tokens for row in rows], np.int32).reshape(len(rows), top),
            np.array([row.top_logprobs for row in rows], np.float32).reshape(len(rows), top),
            np.stack([toy_hidden(context, self.memory_tokens) for context in hidden]) if hidden else None,
        )

    def logits(self, batch: Batch) -> np.ndarray:
        return np.stack([toy_logits(context, self.memory_tokens) for context in self._contexts(batch)[0]])

    def close(self) -> None:
        self.closed = True

    def _contexts(self, batch: Batch) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Write the batch into the pages, then read the contexts of the wanted and of the hidden rows."""
        spans = list(zip(batch.span_start[:-1], batch.span_start[1:], strict=True))
        self.rows += len(batch.tokens)
        assert 0 < len(batch.tokens) <= self.max_rows
        assert len(batch.wanted) <= self.max_wanted
        assert len(batch.positions) == len(batch.tokens) == batch.span_start[-1]
        assert len(batch.sampling) == len(batch.wanted) == len(batch.adjust_start) - 1
        assert batch.adjust_start[-1] == len(batch.adjust)
        assert (np.diff(batch.wanted) > 0).all()
        written: dict[int, int] = {}
        tables = []
        for span, (start, stop) in enumerate(spans):
            assert start < stop
            table = batch.pages[batch.page_start[span] : batch.page_start[span + 1]]
            tables.append(table)
            assert len(set(table.tolist())) == len(table), "one sequence holds a page twice"
            assert (np.diff(batch.positions[start:stop]) == 1).all()
            for row in range(start, stop):
                position = int(batch.positions[row])
                page = int(table[position // PAGE_TOKENS])
                assert written.setdefault(page, span) == span, "two sequences write one page"
                self.pages[page, position % PAGE_TOKENS] = batch.tokens[row]
        for span, table in enumerate(tables):
            assert all(written.get(page, span) == span for page in table.tolist()), "a shared page is written"
        asked = [] if batch.hidden is None else batch.hidden.tolist()
        contexts = []
        for row in [*batch.wanted.tolist(), *asked]:
            span = int(np.searchsorted(batch.span_start, row, side="right")) - 1
            length = int(batch.positions[row]) + 1
            flat = self.pages[tables[span][: -(-length // PAGE_TOKENS)]].reshape(-1)[:length]
            assert (flat >= 0).all(), "a position was never computed"
            contexts.append(flat.copy())
        return contexts[: len(batch.wanted)], contexts[len(batch.wanted) :]


class FakeTokenizer:
    """Token t is the letter with number t; the stream gives whole letters at once."""

    def __init__(self) -> None:
        self.eos_ids = frozenset({EOS})

    def stream(self) -> FakeStream:
        return FakeStream()


class FakeStream:
    def push(self, token_id: int, /) -> str:
        return letter(token_id)

    def flush(self) -> str:
        return ""


def letter(token: int) -> str:
    return chr(ord("a") + token)


@dataclass
class Expected:
    tokens: list[int]
    text: str
    finish: str
    logprobs: list[tuple[int, float, tuple]]
    prompt_logprobs: list[tuple[int, float, tuple] | None]


def alone(
    prompt: list[int], params: SamplingParams, *, seed: int = 0, context: int = 256, memory: int = 1000
) -> Expected:
    """What a request must get, computed token by token from the definition."""
    tokens = list(prompt)
    limit = context if params.max_tokens is None else len(prompt) + params.max_tokens
    ends = set(params.stop_token_ids) | (set() if params.ignore_eos else {EOS})
    text, finish, logprobs = "", "length", []
    while len(tokens) < limit:
        output = tokens[len(prompt) :]
        adjust = adjust_entries(params, prompt, output).tolist()
        if len(output) < params.min_tokens:
            kept = {entry[0]: entry for entry in adjust}
            for token in ends:
                kept[token] = (*kept.get(token, (token, 0, 0))[:3], -np.inf)
            adjust = list(kept.values())
        logits = toy_logits(np.array(tokens), memory)
        row = sampling_row(params, seed, draw=len(output))[0]
        sampled = sample_reference(logits, row, np.array(adjust, dtype=adjust_entries(params).dtype))
        tokens.append(sampled.token)
        logprobs.append(_entry(sampled))
        if sampled.token in ends:
            finish = "stop"
            break
        text += letter(sampled.token)
        cuts = [text.find(stop) for stop in params.stop if stop in text]
        if cuts:
            text, finish = text[: min(cuts)], "stop"
            break
    scored: list = [None]
    if params.prompt_logprobs is not None:
        for place in range(1, len(prompt)):
            row = sampling_row(params, 0, score=prompt[place], top_logprobs=params.prompt_logprobs)[0]
            scored.append(_entry(sample_reference(toy_logits(np.array(prompt[:place]), memory), row)))
    return Expected(tokens[len(prompt) :], text, finish, logprobs, scored)


def _entry(sampled) -> tuple[int, float, tuple]:
    top = tuple(zip(sampled.top_tokens.tolist(), sampled.top_logprobs.tolist(), strict=True))
    return (sampled.token, sampled.logprob, top)
