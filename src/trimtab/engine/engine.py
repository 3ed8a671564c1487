"""Tokens in, tokens out: one model, one pool, one thread that runs step after step.

Requests come in through a queue that is read between steps, and their readers are woken once a step. An
error in one request ends that request; an error of the runner ends those that were in the step; the engine
stays up. The engine knows threads and time; what runs next is the scheduler's business.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np
from pydantic import BaseModel, Field

from trimtab import _native
from trimtab.engine.admission import checked_tokens, output_limit
from trimtab.engine.assembly import scoring_batch
from trimtab.engine.backpressure import Backpressure
from trimtab.engine.batch import PAGE_TOKENS, Floats, Runner
from trimtab.engine.fairness import NOBODY, Caller
from trimtab.engine.handle import Handle, Waiter, wake
from trimtab.engine.output import StopText, TextStream
from trimtab.engine.pages import PagePool, pages_for
from trimtab.engine.sampling import SamplingParams
from trimtab.engine.scheduler import Scheduler
from trimtab.engine.sequence import Sequence as Output
from trimtab.engine.stats import Ended, Ledger
from trimtab.errors import Busy, TrimtabError, UsageError
from trimtab.machine import spans

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from trimtab.engine.grammar import Grammar
    from trimtab.engine.grammars import Grammars
    from trimtab.engine.objective import Objective
    from trimtab.engine.prefix_store import PrefixStore
    from trimtab.engine.warm import WarmPrefixes

T = TypeVar("T")
_SEED_STEP = 0x9E3779B97F4A7C15
_NO_OUTPUT = SamplingParams(max_tokens=0)
_STREAM_GAP_EACH_S, _STREAM_GAP_MOST_S = 0.002, 0.08


class Vocabulary(Protocol):
    """What the engine needs of a tokenizer."""

    @property
    def eos_ids(self) -> AbstractSet[int]: ...
    def stream(self) -> TextStream: ...


class EngineSettings(BaseModel, frozen=True, extra="forbid"):
    """Limits and policies of one engine."""

    context: int | None = Field(
        default=None, gt=0, description="most tokens of one request, prompt and output"
    )
    max_running: int = Field(default=64, gt=0, description="most requests in work at a time")
    max_waiting: int = Field(
        default=1024, ge=0, description="a request beyond this many waiting ones is refused"
    )
    max_waiting_each: int | None = Field(
        default=None, ge=0, description="beyond this many of one named caller; by default no limit of its own"
    )
    sharing: bool = Field(default=True, description="compute equal prompt beginnings once")
    drafting: bool = Field(default=True, description="guess tokens by prompt look-up where that pays")
    forcing: bool = Field(default=True, description="append what a grammar forces without asking the model")
    seed: int | None = Field(
        default=None, description="of requests that bring none; by default different each time"
    )
    token_times: bool = Field(default=False, description="note for each output token when it came")
    promised: bool = Field(
        default=False, description="its memory is bounded: what grammars take comes out of the pages"
    )
    stream_gap_ms: float | None = Field(
        default=None,
        ge=0,
        description="least time between pieces of a stream; by default 2 for each other stream, at most 80",
    )


class Engine:
    """Runs requests on a runner until it is closed; safe to use from any thread.

    Parameters
    ----------
    runner : owned by the engine from now on, and closed with it
    tokenizer : gives text and knows the tokens that end one
    clock : seconds, never going back
    prefixes : long prompts on disk; owned and closed like the runner, which must then have `page`
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Vocabulary,
        settings: EngineSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        prefixes: PrefixStore | None = None,
    ) -> None:
        self.settings = settings or EngineSettings()
        self.runner = runner
        self.tokenizer = tokenizer
        self.context = min(self.settings.context or runner.config.context, runner.num_pages * PAGE_TOKENS)
        self._clock = clock
        self._ends = frozenset(tokenizer.eos_ids)
        self._random = random.Random(self.settings.seed)
        self._serial = itertools.count()
        self._pool = PagePool(runner.num_pages)
        self._scheduler = Scheduler(
            self._pool,
            max_rows=runner.max_rows,
            max_wanted=runner.max_wanted,
            max_running=min(self.settings.max_running, runner.max_rows, runner.max_wanted),
            sharing=self.settings.sharing,
            drafting=self.settings.drafting,
        )
        self._inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._warm: WarmPrefixes | None = None
        if prefixes is not None:
            from trimtab.engine.warm import WarmPrefixes

            page: Callable[[int], Any] = runner.page  # type: ignore[attr-defined]
            self._warm = WarmPrefixes(prefixes, self._pool, page, self._inbox.put)
        self.objective: Objective | None = None  # set before the first request, if at all
        self._lock = threading.Lock()  # guards what submitters change: _open, _refusing
        self._open: set[Output] = set()
        self._refusing = ""
        self._empty = threading.Event()
        self._empty.set()
        self._stopping = False
        self._grammar_cache: Grammars | None = None
        self._pages_lost = 0  # their memory serves something else
        self._ledger = Ledger(clock())
        self.recorder: Any = getattr(runner, "recorder", None) or _native.Recorder()
        """Of the engine's loop and, on the CPU, of every operation; off until somebody starts it."""
        self._pressure = Backpressure(
            self._scheduler.waiting,
            max_running=self.settings.max_running,
            max_waiting=self.settings.max_waiting,
            max_waiting_each=self.settings.max_waiting_each,
        )
        self._thread = threading.Thread(target=self._run, name="trimtab-engine", daemon=True)
        self._thread.start()

    # --- requests -------------------------------------------------------------------------------------------

    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        request_id: str | None = None,
        salt: str = "",
        *,
        priority: int = 0,
        caller: Caller = NOBODY,
    ) -> Handle:
        """Queue a request for one output.

        Parameters
        ----------
        prompt : token ids
        salt : only requests of equal salt share computed prompts
        priority : lower goes first; equal ones in order of arrival, and fair between callers
        caller : on whose behalf it runs

        Raises
        ------
        UsageError : no tokens, unknown tokens, or `params.n` is not 1 (see `submit_choices`)
        TooLong : prompt and output exceed the context
        Busy : the queue is full, or the engine is shutting down
        """
        params = params or SamplingParams()
        if params.n != 1:
            raise UsageError("`submit` makes one output", "use `submit_choices` for `n` of them", "n")
        return self._submit(prompt, params, 0, request_id, salt, priority, caller)

    def submit_choices(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
        salt: str = "",
        *,
        priority: int = 0,
        caller: Caller = NOBODY,
    ) -> list[Handle]:
        """Queue a request for `params.n` outputs of one prompt, which is computed once."""
        handles: list[Handle] = []
        try:
            for index in range(params.n):
                handles.append(self._submit(prompt, params, index, request_id, salt, priority, caller))
                # Once its first output has started, a request is not refused any more.
                caller = caller._replace(patience_s=math.inf)
        except BaseException:
            for handle in handles:
                handle.cancel()
            raise
        return handles

    def submit_embedding(
        self,
        prompt: Sequence[int],
        request_id: str | None = None,
        salt: str = "",
        *,
        priority: int = 0,
        caller: Caller = NOBODY,
    ) -> Handle:
        """Queue a request for the mean of a prompt's final hidden states; its completion has `embedding`.

        It shares steps with the requests that generate, and waits, runs and is cancelled as they are.

        Raises
        ------
        UsageError, TooLong, Busy : see `submit`
        """
        return self._submit(prompt, _NO_OUTPUT, 0, request_id, salt, priority, caller, pooling=True)

    def check_embedding(self, prompt: Sequence[int]) -> None:
        """Raise what `submit_embedding` would raise over this prompt, a full queue excepted."""
        config = self.runner.config
        tokens = checked_tokens(prompt, config.vocab_size)
        output_limit(len(tokens), _NO_OUTPUT, self.context, config.context)

    def prepare(self, grammar: Grammar) -> None:
        """Compile a grammar, unless it is there already: requests with it start without delay.

        Takes up to about a second, and the first grammar of an engine half a second more.

        Raises
        ------
        UsageError : the grammar is wrong, cannot be enforced, or costs too much
        """
        self._grammars().compile(grammar)

    def prepared(self, grammar: Grammar) -> bool:
        """Whether a grammar is compiled already."""
        return self._grammars().knows(grammar)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Start no step while several requests are submitted, so that they run together from the first."""
        release = threading.Event()
        self._inbox.put(release.wait)
        try:
            yield
        finally:
            release.set()

    def logits(self, prompt: Sequence[int]) -> Floats:
        """The logits of every position, (tokens, vocabulary); running requests wait meanwhile."""
        config = self.runner.config
        tokens = checked_tokens(prompt, config.vocab_size)
        output_limit(len(tokens), _NO_OUTPUT, self.context, config.context)
        return self.call(lambda: self._logits(tokens))

    def call(self, work: Callable[[], T]) -> T:
        """Run something in the engine's thread between two steps, and wait for what it returns."""
        future: Future[T] = Future()

        def job() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        with self._lock:
            if self._stopping:
                raise Busy("the engine is closed")
            self._inbox.put(job)
        return future.result()

    # --- state ----------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Figures since the start, for people and for metrics.

        Times are in seconds; `ttft_s` and `tpot_s` have `count`, `sum` and cumulative `buckets`.
        """
        scheduler = self._scheduler
        counters = scheduler.counters
        return {
            "running": scheduler.running,
            "waiting": max(0, len(self._open) - scheduler.running),
            "pages_total": self._pool.num_pages - self._pages_lost,
            "pages_held": self._pool.held - self._pages_lost,
            "pages_idle": self._pool.idle,
            "page_tokens": PAGE_TOKENS,
            "context": self.context,
            "steps": counters.steps,
            "rows": counters.rows,
            "prompt_tokens": counters.prompt_tokens,
            "cached_tokens": counters.cached_tokens,
            "output_tokens": counters.output_tokens,
            "preemptions": counters.preemptions,
            "drafted_tokens": counters.drafted_tokens,
            "accepted_tokens": counters.accepted_tokens,
            "forced_tokens": counters.forced_tokens,
            "memory_bytes": dict(self.runner.memory),
            **self._ledger.snapshot(self._clock(), counters.output_tokens),
            **({} if self._warm is None else self._warm.stats()),
        }

    @property
    def open_requests(self) -> int:
        """Outputs that run or wait now."""
        return len(self._open)

    def recent(self) -> tuple[Ended, ...]:
        """The last requests that ended with output, oldest first, with their exact latencies."""
        return self._ledger.recent()

    @property
    def now(self) -> float:
        """The engine's clock, by which sequences are stamped."""
        return self._clock()

    def drain(self, timeout_s: float | None = None) -> bool:
        """Refuse new requests and wait for the others; True when none is left."""
        with self._lock:
            self._refusing = self._refusing or "the engine is shutting down"
        return self._empty.wait(timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """Cancel what runs, stop the thread, close the runner. May be called twice."""
        with self._lock:
            self._refusing = "the engine is closed"
            if not self._stopping:
                self._stopping = True
                self._inbox.put(lambda: None)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- submission, in the caller's thread -----------------------------------------------------------------

    def _submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        index: int,
        request_id: str | None,
        salt: str,
        priority: int,
        caller: Caller,
        pooling: bool = False,
    ) -> Handle:
        config = self.runner.config
        tokens = checked_tokens(prompt, config.vocab_size)
        limit = output_limit(len(tokens), params, self.context, config.context)
        params.check_vocab(config.vocab_size)
        stream = self.tokenizer.stream()
        constraint = None
        if params.grammar is not None:
            left, forces = limit - len(tokens), self.settings.forcing
            constraint = self._grammars().start(params.grammar, left, forces=forces)
        with self._lock:
            if self._refusing:
                raise Busy(self._refusing)
            try:
                self._pressure.check(caller)
            except Busy:
                self._ledger.refused()
                raise
            serial = next(self._serial)
            seed = self._random.getrandbits(64) if params.seed is None else params.seed
        sequence = Output(
            tokens,
            params,
            limit=limit,
            ends=frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self._ends),
            stop=StopText(stream, params.stop) if params.stop else None,
            seed=(seed + index * _SEED_STEP) % 2**64,
            age=(priority, serial),
            salt=salt,
            shares=self.settings.sharing and params.prompt_logprobs is None and not pooling,
            pooling=pooling,
            constraint=constraint,
            submitted_at=self._clock(),
            timed=self.settings.token_times,
            caller=caller,
        )
        with self._lock:
            if self._refusing:
                raise Busy(self._refusing)
            if self.objective is not None:
                try:
                    self.objective.check(sequence, self._open, self._pool.holds)
                except Busy:
                    self._ledger.refused()
                    raise
            self._open.add(sequence)
            self._pressure.enter(sequence)
            self._empty.clear()
            self._inbox.put(lambda: self._add(sequence))
        request_id = request_id or f"request-{serial}"
        return Handle(sequence, request_id, stream, self._cancel, index, self.recorder)

    def _grammars(self) -> Grammars:
        with self._lock:
            if self._grammar_cache is None:
                from trimtab.engine.grammars import Grammars

                vocabulary = cast(Any, self.tokenizer)
                make_room = self._make_room if self.settings.promised else None
                self._grammar_cache = Grammars(vocabulary, self.runner.config.vocab_size, make_room)
            return self._grammar_cache

    def _make_room(self, nbytes: int) -> None:
        """Take memory that was not planned for out of the pages', so that the whole stays what it was.

        Raises
        ------
        UsageError : the pages left would not hold a sequence of full length
        """
        drop = getattr(self.runner, "drop", None)
        page_bytes = self.runner.memory.get("pages", 0) // self.runner.num_pages
        if drop is None or not page_bytes:
            return  # the pages lie elsewhere
        count = -(-nbytes // page_bytes)
        if self.runner.num_pages - count < pages_for(self.context):
            raise UsageError(
                f"grammars take {nbytes >> 20} MiB, which this memory budget does not have: it would need "
                f"{nbytes >> 20} MiB more, or a shorter context", param="grammar",
            )  # fmt: skip

        def give() -> None:
            pages = self._scheduler.preempt_for(count) or []
            drop(pages)
            self._pages_lost = len(pages)

        self._inbox.put(give)  # not awaited: the caller may be holding the engine back

    def _cancel(self, sequence: Output) -> None:
        self._inbox.put(lambda: self._drop(sequence))

    # --- the engine's thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        inbox, idle, record = self._inbox, True, self.recorder
        while True:
            while idle or not inbox.empty():
                began = record.begin()
                job = inbox.get()
                record.end(spans.IDLE, began)
                began = record.begin()
                self._guarded(job)
                record.end(spans.INBOX, began)
                idle = False
            if self._stopping:
                break
            idle = not self._step()
            if idle and self._warm is not None:
                self._warm.idle()
        for sequence in tuple(self._open):
            self._drop(sequence)
        while not inbox.empty():  # jobs that came with the last breath still get their answer
            self._guarded(inbox.get())
        if self._warm is not None:
            self._warm.finish()
        self.runner.close()

    def _guarded(self, job: Callable[[], object]) -> None:
        try:
            job()
        except Exception as error:
            self._fail(tuple(self._open), error)

    def _step(self) -> bool:
        """Run one step; False when there was nothing to do."""
        scheduler, record = self._scheduler, self.recorder
        began = record.begin()
        try:
            assembly = scheduler.plan()
            record.end(spans.SCHEDULE, began)
            if assembly is None:
                return False
            began = record.begin()
            batch = assembly.batch()
        except Exception as error:
            self._fail(tuple(self._open), error)
            return True
        if scheduler.prefilling:
            self._mark_started(scheduler.prefilling)
        record.end(spans.ASSEMBLE, began)
        try:
            began = record.begin()
            result = self.runner.step(batch)
            record.end(spans.STEP, began)
            began = record.begin()
            touched = scheduler.commit(result)
            record.end(spans.COMMIT, began)
        except Exception as error:
            self._fail((*scheduler.decoding, *scheduler.prefilling), error)
            return True
        began = record.begin()
        self._answer(touched)
        record.end(spans.WAKE, began)
        return True

    def _answer(self, touched: list[Output]) -> None:
        """A step has ended: note it, close what is over, and wake the readers that want to know."""
        scheduler, now = self._scheduler, self._clock()
        self._ledger.step(now, scheduler.counters.output_tokens)
        self._pressure.note(now, scheduler.counters.started)
        for late in self._pressure.expired(now):
            self._fail((late,), self._pressure.refusal(late))
        waiters: list[Waiter] = []
        stream_gap_s = self._stream_gap_s()
        for sequence in touched:
            if sequence.first_at == 0.0:
                self._ledger.answered(sequence, now)
                if self._warm is not None:
                    self._warm.note(sequence)
            if (times := sequence.times) is not None:
                # One step gives several tokens when drafted ones were right.
                times.extend((now,) * (len(sequence.tokens) - sequence.prompt_length - len(times)))
            if sequence.finish is not None or sequence.error is not None:
                self._close(sequence, now)
            waiter = sequence.waiter
            if waiter is not None and (
                sequence.closed or (waiter.every and now - sequence.woken_at >= stream_gap_s)
            ):
                sequence.waiter = None
                sequence.woken_at = now
                waiters.append(waiter)
        if waiters:
            wake(waiters)

    def _stream_gap_s(self) -> float:
        """Between two pieces of a stream: sending one costs as much beside 32 streams as beside one."""
        if self.settings.stream_gap_ms is not None:
            return self.settings.stream_gap_ms / 1e3
        return min(_STREAM_GAP_EACH_S * (self._scheduler.running - 1), _STREAM_GAP_MOST_S)

    def _mark_started(self, sequences: list[Output]) -> None:
        """Note the end of the wait of those that are about to enter their first step."""
        now = self._clock()
        for sequence in sequences:
            if sequence.started_at == 0.0 and sequence.pages:
                self._ledger.started(sequence, now)

    def _add(self, sequence: Output) -> None:
        if self._warm is not None and not sequence.closed:
            self._warm.fetch(sequence, lambda: self._enqueue(sequence))
        else:
            self._enqueue(sequence)

    def _enqueue(self, sequence: Output) -> None:
        if not sequence.closed:
            self._scheduler.add(sequence)

    def _drop(self, sequence: Output) -> None:
        """Cancel a sequence, unless it has ended already."""
        if sequence.closed:
            return
        self._scheduler.remove(sequence)
        try:
            sequence.end("cancelled")
        except Exception as error:
            sequence.error = error
        self._close_and_wake(sequence)

    def _fail(self, sequences: tuple[Output, ...], error: Exception) -> None:
        for sequence in sequences:
            self._scheduler.remove(sequence)
            sequence.error = error
            self._close_and_wake(sequence)

    def _close_and_wake(self, sequence: Output) -> None:
        self._close(sequence, self._clock())
        waiter = sequence.waiter
        if waiter is not None:
            sequence.waiter = None
            wake((waiter,))

    def _close(self, sequence: Output, now: float) -> None:
        """The last word on a sequence: after this its reader sees the end."""
        self._ledger.ended(sequence, now)
        sequence.lookup = sequence.constraint = None
        sequence.digests = []
        sequence.closed = True
        with self._lock:
            self._open.discard(sequence)
            self._pressure.leave(sequence)
            if not self._open:
                self._empty.set()

    def _logits(self, tokens: array[int]) -> Floats:
        pages = self._scheduler.preempt_for(pages_for(len(tokens)))
        if pages is None:
            raise TrimtabError(f"no pages for {len(tokens)} tokens")
        try:
            out = np.empty((len(tokens), self.runner.config.vocab_size), np.float32)
            rows = min(self.runner.max_rows, self.runner.max_wanted)
            for start in range(0, len(tokens), rows):
                chunk = tokens[start : start + rows]
                out[start : start + len(chunk)] = self.runner.logits(scoring_batch(chunk, start, pages))
            return out
        finally:
            self._pool.give(pages)
