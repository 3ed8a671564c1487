"""The reader's end of a request: iterate over what is new, wait for the whole, or cancel.

Text is made here, in the reader's thread, from the tokens that the engine's thread appends; the engine only
wakes readers, and only those that wait. A handle has one reader at a time.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

from trimtab.engine.output import Completion, Delta, TextStream, TokenLogprob
from trimtab.engine.sequence import Sequence
from trimtab.errors import TrimtabError
from trimtab.machine import spans

if TYPE_CHECKING:
    import asyncio


class Waiter:
    """Somebody who wants to know: a thread behind a queue, or a coroutine behind a future of its loop.

    Parameters
    ----------
    every : wake for each new token, not only at the end
    """

    __slots__ = ("every", "future", "loop", "queue")

    def __init__(self, every: bool, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.every = every
        self.loop = loop
        self.future: asyncio.Future[None] | None = None if loop is None else loop.create_future()
        self.queue: SimpleQueue[None] | None = SimpleQueue() if loop is None else None


def wake(waiters: Iterable[Waiter]) -> None:
    """Wake each of them; all futures of one loop with a single call into it."""
    futures: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiter in waiters:
        if waiter.queue is not None:
            waiter.queue.put(None)
        elif waiter.loop is not None and waiter.future is not None:
            futures.setdefault(waiter.loop, []).append(waiter.future)
    for loop, waiting in futures.items():
        try:
            loop.call_soon_threadsafe(_resolve, waiting)
        except RuntimeError:  # the loop is closed: nobody waits there any more
            continue


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Handle:
    """One submitted request.

    Iterating (`for` or `async for`) gives Deltas until the output ends; `result` and `wait` give the
    Completion. Leaving a `with` block cancels what still runs. An error of the engine is raised here.

    Parameters
    ----------
    cancel : asks the engine to end the request
    recorder : the engine's
    stream : turns tokens to text; not used when the sequence looks for stop strings and has its own
    """

    def __init__(
        self,
        sequence: Sequence,
        request_id: str,
        stream: TextStream,
        cancel: Callable[[Sequence], None],
        index: int,
        recorder: Any,
    ) -> None:
        self.request_id = request_id
        self.recorder = recorder
        self.index = index
        self.cause = ""  # why it was cancelled, where whoever did it has something to say
        self._sequence = sequence
        self._stream = stream
        self._cancel = cancel
        self._seen_tokens = sequence.prompt_length
        self._seen_parts = 0
        self._text: list[str] = []
        self._over = False

    # --- state ----------------------------------------------------------------------------------------------

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self._sequence.prompt_length

    @property
    def output_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self._sequence.tokens) - self._sequence.prompt_length

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were shared instead of computed; final at the first delta."""
        return self._sequence.cached

    @property
    def prompt_logprobs(self) -> list[TokenLogprob | None] | None:
        """Log probabilities of the prompt when asked for: whole at the first delta, first entry None."""
        return self._sequence.prompt_logprobs

    @property
    def finished(self) -> bool:
        return self._sequence.closed

    @property
    def sequence(self) -> Sequence:
        """The engine's own record; to look at, never to change."""
        return self._sequence

    def cancel(self) -> None:
        """End the request at the next step; it finishes with reason `cancelled` and keeps what it has."""
        if not self._sequence.closed:
            self._cancel(self._sequence)

    # --- threads --------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        while True:
            delta = self._read()
            if delta is not None:
                return delta
            if self._over:
                raise StopIteration
            self._sleep(True, None)

    def result(self, timeout_s: float | None = None) -> Completion:
        """Wait for the end.

        Raises
        ------
        TimeoutError : it has not come in time; the request goes on
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._sequence.closed:
            self._sleep(False, deadline)
        return self._completion()

    # --- coroutines -----------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while True:
            delta = self._read()
            if delta is not None:
                return delta
            if self._over:
                raise StopAsyncIteration
            await self._pause(True)

    async def wait(self) -> Completion:
        """Wait for the end; cancelling the waiting task does not cancel the request."""
        while not self._sequence.closed:
            await self._pause(False)
        return self._completion()

    # --- leaving --------------------------------------------------------------------------------------------

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    async def __aenter__(self) -> Handle:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    # --- reading --------------------------------------------------------------------------------------------

    def _read(self) -> Delta | None:
        """What is new; None when nothing is. The order matters: the end first, then what led to it."""
        sequence = self._sequence
        if self._over:
            return None
        closed = sequence.closed
        error, finish = (sequence.error, sequence.finish) if closed else (None, None)
        tokens = sequence.tokens[self._seen_tokens :].tolist()
        if error is not None:
            self._over = True
            raise _own(error) from error
        if not tokens and finish is None:
            return None
        first = self._seen_tokens - sequence.prompt_length
        self._seen_tokens += len(tokens)
        logprobs = None
        if sequence.logprobs is not None:
            logprobs = sequence.logprobs[first : first + len(tokens)]
        began = self.recorder.begin()
        text = self._new_text(tokens, finish is not None)
        self.recorder.end(spans.DETOKENIZE, began)
        if text:
            self._text.append(text)
        if finish is None:
            return Delta(text, tokens, logprobs)
        self._over = True
        return Delta(text, tokens, logprobs, finish, sequence.matched)

    def _new_text(self, tokens: list[int], last: bool) -> str:
        sequence = self._sequence
        if sequence.stop is not None:
            parts = sequence.stop.parts[self._seen_parts :]
            self._seen_parts += len(parts)
            return "".join(parts)
        push, ends = self._stream.push, sequence.ends
        text = "".join([push(token) for token in tokens if token not in ends])
        return text + self._stream.flush() if last else text

    def _completion(self) -> Completion:
        while self._read() is not None:
            pass
        sequence = self._sequence
        if sequence.error is not None:
            raise _own(sequence.error) from sequence.error
        return Completion(
            text="".join(self._text),
            token_ids=sequence.tokens[sequence.prompt_length :].tolist(),
            finish_reason=sequence.finish or "cancelled",
            matched=sequence.matched,
            logprobs=sequence.logprobs,
            prompt_logprobs=sequence.prompt_logprobs,
            prompt_tokens=sequence.prompt_length,
            cached_tokens=sequence.cached,
            index=self.index,
            first_token_s=max(0.0, sequence.first_at - sequence.submitted_at),
            total_s=sequence.finished_at - sequence.submitted_at,
            embedding=sequence.embedding,
        )

    def _news(self, every: bool) -> bool:
        sequence = self._sequence
        return sequence.closed or (every and len(sequence.tokens) > self._seen_tokens)

    def _sleep(self, every: bool, deadline: float | None) -> None:
        waiter = Waiter(every)
        self._sequence.waiter = waiter
        if self._news(every) or waiter.queue is None:  # it came before the engine could know of the waiter
            return
        try:
            waiter.queue.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except Empty:
            raise TimeoutError(f"request {self.request_id} is still running") from None

    async def _pause(self, every: bool) -> None:
        import asyncio  # here: a quarter of this package's import time, and only coroutines need it

        waiter = Waiter(every, asyncio.get_running_loop())
        self._sequence.waiter = waiter
        if self._news(every) or waiter.future is None:
            return
        await waiter.future


def _own(error: BaseException) -> TrimtabError:
    """An error of the reader's own: one exception must not be raised in several threads."""
    if isinstance(error, TrimtabError) and type(error).__init__ is TrimtabError.__init__:
        own = type(error)(error.message, error.hint, error.param)
        own.__dict__.update(vars(error))
        return own
    return TrimtabError(f"the engine failed while running this request: {type(error).__name__}: {error}")
