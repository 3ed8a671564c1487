"""Decides what runs in the next step, and takes in what came out.

Sequences that generate go first, one row each (and drafted rows while the batch is small); prompts fill the
rest of the step in chunks. Order is that of `fairness.py`; with one tenant that is age. A sequence is
admitted when the pages for its tokens are there; if the generating ones later outgrow the pool, the last in
order gives up its pages, waits, and is computed again from its tokens, so an accepted sequence always
finishes. The scheduler knows sequences, rows and pages; it never sees a tensor, a clock or a thread.
"""

from __future__ import annotations

from array import array
from bisect import insort
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from trimtab.engine.assembly import Assembly
from trimtab.engine.batch import PAGE_TOKENS, Batch, Floats, StepResult
from trimtab.engine.fairness import OUTPUT_COST, PROMPT_COST, FairQueue, rank
from trimtab.engine.lookup import Lookup, draft_length
from trimtab.engine.output import TokenLogprob
from trimtab.engine.pages import PagePool, pages_for
from trimtab.engine.sequence import Sequence

_AGE = attrgetter("age")
_GROWTH_PAGES = 4
"""Pages that each running sequence is expected to need soon; less headroom would only cause preemption."""


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    steps: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    forced_tokens: int = 0
    started: int = 0


class Scheduler:
    """Continuous batching over one page pool.

    Parameters
    ----------
    max_rows, max_wanted : the runner's limits of one step
    max_running : most sequences in work at a time, at most `max_rows` and `max_wanted`
    sharing : equal prefixes are computed once
    drafting : guess tokens by prompt look-up where that pays

    Every step is `next`, the runner, `commit`; `add` and `remove` come between steps.
    """

    def __init__(
        self,
        pool: PagePool,
        *,
        max_rows: int,
        max_wanted: int,
        max_running: int,
        sharing: bool = True,
        drafting: bool = True,
    ) -> None:
        self.pool = pool
        self.counters = Counters()
        self.waiting = FairQueue()
        self.prefilling: list[Sequence] = []
        self.decoding: list[Sequence] = []
        self._max_rows = max_rows
        self._max_wanted = max_wanted
        self._max_running = max_running
        self._sharing = sharing
        self._drafting = drafting
        self._decodes: list[tuple[Sequence, int]] = []  # and how many tokens it feeds
        self._drafts: list[array[int] | None] = []
        self._chunks: list[tuple[Sequence, int]] = []
        # The head of the queue, and what `pool.given` was when there was no room for it.
        self._blocked: tuple[Sequence, int] | None = None

    @property
    def running(self) -> int:
        return len(self.prefilling) + len(self.decoding)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; its `limit` must fit the pool."""
        self.waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is; its pages are free afterwards."""
        for place in (self.decoding, self.prefilling):
            if sequence in place:
                place.remove(sequence)
                if sequence.account is not None:
                    sequence.account.running -= 1
                break
        else:
            self.waiting.remove(sequence)
        self._release(sequence)

    def next(self) -> Batch | None:
        """The next step's work; None when there is none."""
        assembly = self.plan()
        return None if assembly is None else assembly.batch()

    def plan(self) -> Assembly | None:
        """The same, before its arrays are made."""
        while True:
            assembly = Assembly()
            if self.waiting.several:
                # Counters have moved; whoever must make room comes after those that are planned already.
                self.decoding.sort(key=rank)
                self.prefilling.sort(key=rank)
            self._make_way()
            self._plan_decodes(assembly)
            self._admit()
            self._plan_chunks(assembly)
            if assembly.rows:
                self.counters.steps += 1
                self.counters.rows += assembly.rows
                return assembly
            if not self.running:
                return None
            # Prompts hold all pages and none can go on: the last in order makes room for the others.
            self._preempt(self._last())

    def commit(self, result: StepResult) -> list[Sequence]:
        """Take in the step's result; the sequences that got tokens or ended, whose pages are free already."""
        tokens: list[int] = result.tokens.tolist()
        touched: list[Sequence] = []
        row = hidden = 0
        ended = False
        for (sequence, count), draft in zip(self._decodes, self._drafts, strict=True):
            if sequence.computed + count < len(sequence.tokens):
                sequence.computed += count  # forced tokens, and there was no room for all of them
                self._publish(sequence)
                continue
            try:
                self._commit_decode(sequence, draft, tokens, row, result)
            except Exception as error:
                sequence.error = error
            row += 1 if draft is None else len(draft) + 1
            touched.append(sequence)
            ended = ended or sequence.ended
        for sequence, count in self._chunks:
            last = sequence.computed + count == len(sequence.tokens)
            wants = self._chunk_wants(sequence, count)
            try:
                if sequence.pooling and result.hidden is not None:
                    _pool(sequence, result.hidden[hidden : hidden + count])
                    hidden += count
                self._commit_chunk(sequence, count, tokens, row, result)
            except Exception as error:
                sequence.error = error
            row += wants
            if last or sequence.ended:
                touched.append(sequence)
                ended = ended or sequence.ended
                self.prefilling.remove(sequence)
                insort(self.decoding, sequence, key=_AGE)
        if ended:
            for sequence in touched:
                if sequence.ended:
                    self.remove(sequence)
        return touched

    def preempt_for(self, pages: int) -> list[int] | None:
        """Take pages for work outside the batch, from the last in order if need be; None without enough."""
        while self.pool.available < pages and self.running:
            self._preempt(self._last())
        return self.pool.take(pages)

    # --- planning -------------------------------------------------------------------------------------------

    def _make_way(self) -> None:
        """Take one sequence out of work when the next in line has a better right to its place.

        That is work of lower priority, and work of a tenant beyond its share while another has none at all.
        One at a time: the next step sees whether it was enough.
        """
        head = self.waiting.head()
        if head is None or head.account is None or not self.running:
            return
        full = self.running >= self._max_running
        if not full and not (self._blocked is not None and self._blocked[0] is head):
            return
        last = self._last()
        account = last.account
        if last.age[0] > head.age[0]:
            self._preempt(last)
        elif last.age[0] == head.age[0] and account is not None and account is not head.account:
            if head.account.running or account.running < 2 or account.served <= head.account.served:
                return
            share = self.waiting.share_of(account)
            held = sum(len(s.pages) for s in (*self.prefilling, *self.decoding) if s.account is account)
            if full or held > share * self.pool.num_pages:
                self._preempt(last)

    def _plan_decodes(self, assembly: Assembly) -> None:
        self._decodes, self._drafts = [], []
        longest = 0
        if self._drafting and self.decoding and not self.prefilling:
            fits = min(self._max_rows, self._max_wanted) // len(self.decoding) - 1
            longest = min(draft_length(len(self.decoding)), fits)
        place = 0
        while place < len(self.decoding):
            sequence = self.decoding[place]
            place += 1
            room = self._max_rows - assembly.rows - (len(self.decoding) - place)  # the others need a row each
            count = min(len(sequence.tokens) - sequence.computed, room)
            grows = sequence.computed + count > len(sequence.pages) * PAGE_TOKENS
            if grows and not self._grow(sequence, count):
                break  # it was the last itself, and has been preempted
            draft = None
            if longest > 0 and sequence.computed + count == len(sequence.tokens):
                draft = self._draft(sequence, min(longest, room - count))
            assembly.decode(sequence, count, draft)
            self._decodes.append((sequence, count))
            self._drafts.append(draft)

    def _grow(self, sequence: Sequence, count: int) -> bool:
        """Pages for `count` more tokens of a decoding sequence, if need be from the last in order."""
        wanted = pages_for(sequence.computed + count) - len(sequence.pages)
        while (pages := self.pool.take(wanted)) is None:
            victim = self._last()  # not in this step yet
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.pages.extend(pages)
        return True

    def _draft(self, sequence: Sequence, longest: int) -> array[int] | None:
        """Tokens to verify, or None; there are pages for all of them."""
        if sequence.adjust is not None and (sequence.adjust.follows_output or sequence.params.min_tokens > 0):
            return None
        longest = min(longest, sequence.limit - len(sequence.tokens) - 1)
        if longest < 1:
            return None
        if sequence.lookup is None:
            sequence.lookup = Lookup()
        draft = sequence.lookup.draft(sequence.tokens, longest)
        if sequence.constraint is not None and draft:
            allowed = sequence.constraint.follow(draft, sequence.limit - len(sequence.tokens))
            if allowed < len(draft):
                draft = draft[:allowed]
        if not draft:
            return None
        short = pages_for(len(sequence.tokens) + len(draft)) - len(sequence.pages)
        if short > 0:
            pages = self.pool.take(short)
            if pages is None:
                return None
            sequence.pages.extend(pages)
        return draft

    def _admit(self) -> None:
        while self.running < self._max_running and (sequence := self.waiting.head()) is not None:
            if self.running and self._blocked == (sequence, self.pool.given):
                return
            self._share(sequence)
            runners = (*self.prefilling, *self.decoding)
            owed = sum(pages_for(len(other.tokens)) - len(other.pages) for other in self.prefilling)
            growth = sum(
                min(_GROWTH_PAGES, pages_for(other.limit) - pages_for(len(other.tokens))) for other in runners
            )
            need = pages_for(len(sequence.tokens)) - len(sequence.pages)
            if runners and need + owed + growth > self.pool.available:
                self._release(sequence)
                if not sequence.preempted:
                    sequence.cached = 0
                self._blocked = (sequence, self.pool.given)
                return
            self.waiting.remove(sequence)
            insort(self.prefilling, sequence, key=_AGE)
            self._charge(sequence)

    def _charge(self, sequence: Sequence) -> None:
        """Account for an admitted prompt at once: the next choice of a tenant must know of it."""
        account = sequence.account
        if account is not None:
            account.running += 1
            if not sequence.preempted:
                account.charge(PROMPT_COST * (len(sequence.tokens) - sequence.computed))
        if not sequence.preempted:
            self.counters.started += 1

    def _plan_chunks(self, assembly: Assembly) -> None:
        self._chunks = []
        if self.waiting.several:
            self.prefilling.sort(key=rank)
        promised: set[bytes] = set()  # pages that this step computes: others wait and share them
        for sequence in self.prefilling:
            rows = self._max_rows - assembly.rows
            wanted = self._max_wanted - assembly.wanted
            if rows < 1 or wanted < 1:
                break
            self._share(sequence)
            start, total = sequence.computed, len(sequence.tokens)
            page = start // PAGE_TOKENS
            shares = self._sharing and sequence.shares
            if shares and page + 1 < len(sequence.digests) and sequence.digests[page + 1] in promised:
                continue
            count = min(rows, total - start)
            if sequence.scoring:
                count = min(count, wanted)
            room = (len(sequence.pages) + self.pool.available) * PAGE_TOKENS - start
            count = min(count, room)
            if count < 1:
                break  # no page left; those after it come later in order
            pages = self.pool.take(max(0, pages_for(start + count) - len(sequence.pages)))
            sequence.pages.extend(pages or ())
            wants_next = start + count == total and total < sequence.limit
            if shares:
                promised.update(sequence.digests[page + 1 : pages_for(start + count) + 1])
            assembly.prefill(sequence, count, wants_next)
            self._chunks.append((sequence, count))

    def _share(self, sequence: Sequence) -> None:
        """Take over pages that others have computed; at least one token is left, whose row gives the next."""
        if not (self._sharing and sequence.shares) or sequence.computed != len(sequence.pages) * PAGE_TOKENS:
            return
        last = min(len(sequence.digests) - 1, (len(sequence.tokens) - 1) // PAGE_TOKENS)
        while sequence.published == len(sequence.pages) < last:
            page = self.pool.share(sequence.digests[len(sequence.pages) + 1])
            if page is None:
                break
            sequence.pages.append(page)
            sequence.published += 1
            sequence.computed += PAGE_TOKENS
            if not sequence.preempted:
                sequence.cached += PAGE_TOKENS

    def _last(self) -> Sequence:
        return max((*self.prefilling, *self.decoding), key=rank)

    def _preempt(self, sequence: Sequence) -> None:
        self.remove(sequence)
        sequence.preempted = True
        if sequence.scoring:
            sequence.prompt_logprobs = [None]  # its rows will be scored again
        sequence.pooled = None
        self.counters.preemptions += 1
        self.waiting.add(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.pool.give(sequence.pages)
        del sequence.pages[:]
        sequence.computed = sequence.published = 0

    # --- results --------------------------------------------------------------------------------------------

    def _commit_decode(
        self, sequence: Sequence, draft: array[int] | None, tokens: list[int], row: int, result: StepResult
    ) -> None:
        """Take in a decoding sequence's rows."""
        before = len(sequence.tokens)
        logprobs = sequence.logprobs
        if logprobs is not None:
            logprobs.append(_logprob(result, row, tokens[row], sequence.top))
        ended = sequence.accept(tokens[row])
        if draft is not None:
            accepted = 0
            while not ended and accepted < len(draft) and draft[accepted] == tokens[row + accepted]:
                if len(sequence.tokens) == before + accepted:
                    break  # the last token was refused
                accepted += 1
                token = tokens[row + accepted]
                if logprobs is not None:
                    logprobs.append(_logprob(result, row + accepted, token, sequence.top))
                ended = sequence.accept(token)
            if sequence.lookup is not None:
                sequence.lookup.verified(accepted)
            self.counters.drafted_tokens += len(draft)
            self.counters.accepted_tokens += accepted
        if logprobs is not None:
            del logprobs[len(sequence.tokens) - sequence.prompt_length :]  # of a token that was refused
        sequence.computed = len(sequence.tokens) - 1
        if sequence.computed >= (sequence.published + 1) * PAGE_TOKENS:
            self._publish(sequence)
        if sequence.constraint is not None and not ended:
            self._settle(sequence)
        self._count_outputs(sequence, len(sequence.tokens) - before)

    def _chunk_wants(self, sequence: Sequence, count: int) -> int:
        """Rows of the result that belong to a chunk; asked before it is committed."""
        last = sequence.computed + count == len(sequence.tokens)
        scored = (count - 1 if last else count) if sequence.scoring else 0
        return scored + (last and len(sequence.tokens) < sequence.limit)

    def _commit_chunk(
        self, sequence: Sequence, count: int, tokens: list[int], row: int, result: StepResult
    ) -> None:
        start, total = sequence.computed, len(sequence.tokens)
        if sequence.scoring and sequence.prompt_logprobs is not None:
            top = sequence.params.prompt_logprobs or 0
            for position in range(start + 1, min(start + count + 1, total)):
                sequence.prompt_logprobs.append(_logprob(result, row, sequence.tokens[position], top))
                row += 1
        if not sequence.preempted:
            self.counters.prompt_tokens += count
        sequence.computed = start + count
        self._publish(sequence)
        if sequence.computed < total:
            return
        if total >= sequence.limit:
            sequence.end("length")
            return
        if not sequence.preempted:
            self.counters.cached_tokens += sequence.cached
        if sequence.logprobs is not None:
            sequence.logprobs.append(_logprob(result, row, tokens[row], sequence.top))
        if not sequence.accept(tokens[row]) and sequence.constraint is not None:
            if len(sequence.tokens) == total:
                self._release(sequence)  # the token was refused: its row is computed again, and so its pages
                if sequence.logprobs:
                    sequence.logprobs.pop()
            self._settle(sequence)
        self._count_outputs(sequence, len(sequence.tokens) - total)

    def _settle(self, sequence: Sequence) -> None:
        """Let the grammar add what it forces and say what may come next."""
        before = len(sequence.tokens)
        sequence.settle()
        self.counters.forced_tokens += len(sequence.tokens) - before

    def _count_outputs(self, sequence: Sequence, tokens: int) -> None:
        self.counters.output_tokens += tokens
        if sequence.account is not None:
            sequence.account.charge(OUTPUT_COST * tokens)

    def _publish(self, sequence: Sequence) -> None:
        """Tell the pool which pages are full now."""
        if not (self._sharing and sequence.shares):
            return
        sequence.extend_digests(sequence.computed)
        for page in range(sequence.published, sequence.computed // PAGE_TOKENS):
            self.pool.publish(sequence.pages[page], sequence.digests[page + 1])
        sequence.published = sequence.computed // PAGE_TOKENS


def _pool(sequence: Sequence, hidden: Floats) -> None:
    """Add hidden states, (rows, width), to a sequence's sum; in float64, so that chunks change nothing."""
    total = hidden.sum(axis=0, dtype=np.float64)
    sequence.pooled = total if sequence.pooled is None else sequence.pooled + total


def _logprob(result: StepResult, row: int, token: int, top: int) -> TokenLogprob:
    """One row's log probabilities, with its `top` best tokens."""
    if top < 1:
        return TokenLogprob(token, float(result.logprobs[row]))
    best = zip(result.top_tokens[row, :top].tolist(), result.top_logprobs[row, :top].tolist(), strict=True)
    return TokenLogprob(token, float(result.logprobs[row]), tuple(best))
