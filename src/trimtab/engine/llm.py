"""A model in Python: give it prompts, take what it says. `LLM` waits, `AsyncLLM` is awaited.

Both are thin: they turn text into tokens and hand it to an engine, which runs in a thread of its own.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from trimtab.engine.embedding import checked_dimensions, unit
from trimtab.engine.engine import Engine
from trimtab.engine.handle import Handle
from trimtab.engine.opening import Opened, open_model
from trimtab.engine.output import Completion, Delta
from trimtab.engine.sampling import SamplingParams
from trimtab.errors import TrimtabError, UsageError

Prompt: TypeAlias = str | Sequence[int]
Messages: TypeAlias = Sequence[Mapping[str, Any]]
_UNBOUNDED = 2**31  # a list of prompts is its own queue: it is never too long


class _Model:
    """What both have in common: the open model, and prompts on their way in.

    Parameters
    ----------
    options : everything else that `open_model` takes
    """

    def __init__(
        self,
        model: str | Path = "smollm2",
        *,
        memory: int | str | None = None,
        threads: int | None = None,
        kv_type: str = "bf16",
        format: str = "auto",
        context: int | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        self._opened: Opened = open_model(
            model, memory=memory, threads=threads, kv_type=kv_type, format=format, context=context,
            device=device, **{"max_waiting": _UNBOUNDED, **options},
        )  # fmt: skip
        # Also at exit and when nobody holds the model any more: a thread runs behind it.
        self._closing = weakref.finalize(self, Engine.close, self._opened.engine)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._opened.path)!r}, context={self.engine.context})"

    @property
    def engine(self) -> Engine:
        """The engine behind it, for what is not offered here."""
        return self._opened.engine

    @property
    def tokenizer(self) -> Any:
        return self._opened.tokenizer

    @property
    def config(self) -> Any:
        """The model's shape."""
        return self._opened.config

    @property
    def plan(self) -> Any:
        """How the memory is divided."""
        return self._opened.plan

    def stats(self) -> dict[str, Any]:
        """Figures since the start; see `Engine.stats`."""
        return self.engine.stats()

    def close(self) -> None:
        """Cancel what runs and give the memory back."""
        self._closing()

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """Token ids of a prompt; those of a list are taken as they are."""
        if isinstance(prompt, str):
            tokens: list[int] = self.tokenizer.encode(prompt)
            return tokens
        return prompt

    def encode_chat(self, messages: Messages, **options: Any) -> Sequence[int]:
        """Token ids of a conversation, by the model's own template."""
        tokens: list[int] = self.tokenizer.encode_chat(messages, **options)
        return tokens

    def _submit_all(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[Handle]:
        work = iter(_pairs(prompts, params))
        handles: list[Handle] = []
        try:
            with self.engine.hold():  # as many as can run start together
                for prompt, one in islice(work, self.engine.settings.max_running):
                    handles += self.engine.submit_choices(self.encode(prompt), one)
            for prompt, one in work:
                handles += self.engine.submit_choices(self.encode(prompt), one)
        except BaseException:
            _cancel(handles)
            raise
        return handles

    def _submit_embeddings(self, prompts: Prompt | Sequence[Prompt]) -> list[Handle]:
        handles: list[Handle] = []
        try:
            with self.engine.hold():
                for prompt in _several(prompts):
                    handles.append(self.engine.submit_embedding(self.encode(prompt)))
        except BaseException:
            _cancel(handles)
            raise
        return handles

    def _windows(self, text: Prompt, window: int) -> list[list[int]]:
        """A text in pieces of `window` tokens, each with the begin token in place where the model has one."""
        if not 2 <= window <= self.engine.context:
            raise UsageError(
                f"a window of {window} tokens must have 2 to {self.engine.context}", param="window"
            )
        tokens = list(self.encode(text))
        if len(tokens) < 2:
            raise UsageError("the text is too short to be scored", param="text")
        starts_with_bos = self.tokenizer.bos_id is not None and tokens[0] == self.tokenizer.bos_id
        pieces = [tokens[at : at + window] for at in range(0, len(tokens), window)]
        if len(pieces) > 1 and len(pieces[-1]) < window:
            pieces.pop()
        if starts_with_bos:
            for piece in pieces:
                piece[0] = self.tokenizer.bos_id
        return pieces


class LLM(_Model):
    """A model to call from a script.

    Parameters
    ----------
    model : a GGUF file, a folder in Hugging Face layout, a pulled name, or a hub id
    memory : ceiling for the whole process, in bytes or like `400MB`; by default what the machine can spare
    threads : of a step; by default the processors this process may use
    kv_type : `bf16`, `int8` or `f32`
    format : weights: `auto` keeps their own precision; `bf16`, `int8`, `q8`, `q4/16`, `q4`, `q4-sym` convert
    context : tokens one request may have; by default what fits, up to 8192
    device : `cpu`, or a torch device

    Raises
    ------
    DoesNotFit : the budget is too small; the hint names one that is not

    Examples
    --------
    >>> with LLM("smollm2") as llm:
    ...     llm.generate("The capital of France is")[0].text
    """

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Completion]:
        """Continue each prompt; the `n` outputs of one prompt follow one another.

        Parameters
        ----------
        prompts : a text, a list of texts, token ids, or a list of such
        params : for all, or one for each prompt
        """
        return self._results(self._submit_all(prompts, params))

    def chat(self, messages: Messages, params: SamplingParams | None = None, **options: Any) -> Completion:
        """The model's next turn in a conversation; `options` go to the chat template.

        Without `params` it may be as long as the context allows.
        """
        return self._results(self._submit_all([self.encode_chat(messages, **options)], params or _CHAT))[0]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Continue a prompt piece by piece; leaving the loop cancels the rest."""
        return self._deltas(self.encode(prompt), params or SamplingParams())

    def stream_chat(
        self, messages: Messages, params: SamplingParams | None = None, **options: Any
    ) -> Iterator[Delta]:
        """The model's next turn piece by piece."""
        return self._deltas(self.encode_chat(messages, **options), params or _CHAT)

    def logits(self, prompt: Prompt) -> npt.NDArray[np.float32]:
        """Logits after each token of a prompt, (tokens, vocabulary)."""
        return self.engine.logits(self.encode(prompt))

    def score(self, prompt: Prompt) -> npt.NDArray[np.float32]:
        """Log probability of each token but the first, given those before it, (tokens - 1,)."""
        return self._scores([self.encode(prompt)])[0]

    def embed(
        self, prompts: Prompt | Sequence[Prompt], *, dimensions: int | None = None
    ) -> npt.NDArray[np.float32]:
        """One vector of length 1 for each prompt: the mean of its final hidden states, (prompts, width).

        Parameters
        ----------
        prompts : a text, a list of texts, token ids, or a list of such
        dimensions : keep this many values; by default all that the model's hidden states have

        Raises
        ------
        UsageError : a prompt is empty, or more dimensions are asked for than there are
        TooLong : a prompt does not fit the context
        """
        kept = checked_dimensions(dimensions, self.config.hidden)
        return _embeddings(self._results(self._submit_embeddings(prompts)), kept)

    def perplexity(self, text: Prompt, *, window: int = 512, warm_up: int | None = None) -> float:
        """How surprised the model is by a text: exp of the mean negative log probability.

        Parameters
        ----------
        window : the text is read in pieces of this many tokens; a shorter last one is left out
        warm_up : tokens at the start of each piece that only give context; by default half of it
        """
        pieces = self._windows(text, window)
        first = window // 2 if warm_up is None else warm_up
        scores = np.concatenate([one[min(first, len(one) - 1) :] for one in self._scores(pieces)])
        return math.exp(-float(scores.mean(dtype=np.float64)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _results(self, handles: list[Handle]) -> list[Completion]:
        try:
            return [handle.result() for handle in handles]
        finally:
            _cancel(handles)

    def _deltas(self, tokens: Sequence[int], params: SamplingParams) -> Iterator[Delta]:
        with self.engine.submit(tokens, params) as handle:
            yield from handle

    def _scores(self, pieces: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        completions = self._results(self._submit_all(pieces, _SCORE))
        return [_logprobs(completion) for completion in completions]


class AsyncLLM(_Model):
    """The same for coroutines. Takes what `LLM` takes; loading it blocks."""

    async def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Completion]:
        """See `LLM.generate`; cancelling the task cancels the requests."""
        handles = self._submit_all(prompts, params)
        try:
            return [await handle.wait() for handle in handles]
        finally:
            _cancel(handles)

    async def chat(
        self, messages: Messages, params: SamplingParams | None = None, **options: Any
    ) -> Completion:
        """See `LLM.chat`."""
        return (await self.generate([self.encode_chat(messages, **options)], params or _CHAT))[0]

    async def embed(
        self, prompts: Prompt | Sequence[Prompt], *, dimensions: int | None = None
    ) -> npt.NDArray[np.float32]:
        """See `LLM.embed`; cancelling the task cancels the requests."""
        kept = checked_dimensions(dimensions, self.config.hidden)
        handles = self._submit_embeddings(prompts)
        try:
            return _embeddings([await handle.wait() for handle in handles], kept)
        finally:
            _cancel(handles)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> AsyncIterator[Delta]:
        """See `LLM.stream`; use `contextlib.aclosing` to cancel at once when leaving early."""
        return self._deltas(self.encode(prompt), params or SamplingParams())

    def stream_chat(
        self, messages: Messages, params: SamplingParams | None = None, **options: Any
    ) -> AsyncIterator[Delta]:
        """See `LLM.stream_chat`."""
        return self._deltas(self.encode_chat(messages, **options), params or _CHAT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _deltas(self, tokens: Sequence[int], params: SamplingParams) -> AsyncIterator[Delta]:
        async with self.engine.submit(tokens, params) as handle:
            async for delta in handle:
                yield delta


_CHAT = SamplingParams(max_tokens=None)
_SCORE = SamplingParams(max_tokens=0, prompt_logprobs=0)


def _pairs(
    prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
) -> list[tuple[Prompt, SamplingParams]]:
    """Each prompt with its parameters."""
    several = _several(prompts)
    if params is None or isinstance(params, SamplingParams):
        return [(prompt, params or SamplingParams()) for prompt in several]
    if len(params) != len(several):
        raise UsageError(f"{len(several)} prompts, but {len(params)} parameters for them", param="params")
    return list(zip(several, params, strict=True))


def _several(prompts: Prompt | Sequence[Prompt]) -> Any:
    """A list of prompts, also out of a single one."""
    if isinstance(prompts, str) or (len(prompts) and isinstance(prompts[0], int | np.integer)):
        return [prompts]
    return prompts


def _embeddings(completions: Sequence[Completion], dimensions: int) -> npt.NDArray[np.float32]:
    means = [one.embedding for one in completions]
    if any(mean is None for mean in means):
        raise TrimtabError("the engine was closed before all embeddings were there")
    rows = [unit(mean, dimensions) for mean in means if mean is not None]
    return np.stack(rows) if rows else np.zeros((0, dimensions), np.float32)


def _logprobs(completion: Completion) -> npt.NDArray[np.float32]:
    entries = completion.prompt_logprobs or []
    return np.array([entry.logprob for entry in entries if entry is not None], np.float32)


def _cancel(handles: Sequence[Handle]) -> None:
    for handle in handles:
        handle.cancel()
