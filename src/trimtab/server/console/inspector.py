"""The last requests, for whoever wants to see where their time went: kept in memory only, and bounded.

While a request runs the inspector holds the engine's own record of it and costs nothing; once it has ended
the record is packed into plain arrays. Texts are made from tokens only when somebody looks. With `meta` no
token is kept at all. What a tenant did, only the same tenant sees.
"""

from __future__ import annotations

import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from trimtab.engine.handle import Handle
    from trimtab.engine.output import TokenLogprob
    from trimtab.engine.sampling import SamplingParams
    from trimtab.engine.sequence import Sequence as Running

Mode: TypeAlias = Literal["off", "meta", "full"]

ENTRIES = 512
CONTENT_BYTES = 4 << 20
"""Tokens, times and log-probabilities of all entries together: a promise about memory must still hold."""
TOP = 5
"""Alternatives kept for each token."""
_ASKED = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "max_tokens", "n", "seed",
)  # fmt: skip
"""Settings that say nothing of what a request is about."""
_ENTRY_BYTES = 700  # of an entry without arrays, as Python holds it


@dataclass(slots=True)
class Track:
    """One output that has ended. Times are seconds since the submission; None where it never came so far.

    Parameters
    ----------
    times : when each output token came; float32, empty when they were not noted
    tokens : the output, None unless content is kept
    logprobs, top : as far as asked for, or computed afterwards; `top` is flat, TOP pairs a token
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    status: str
    started_s: float | None
    first_s: float | None
    total_s: float
    matched: str | int | None = None
    error: str | None = None
    times: array[float] = field(default_factory=lambda: array("f"))
    tokens: array[int] | None = None
    logprobs: array[float] | None = None
    top_tokens: array[int] | None = None
    top_logprobs: array[float] | None = None
    scored: bool = False

    @property
    def nbytes(self) -> int:
        arrays = (self.times, self.tokens, self.logprobs, self.top_tokens, self.top_logprobs)
        return sum(len(each) * each.itemsize for each in arrays if each is not None)

    def keep_scores(self, entries: Sequence[TokenLogprob]) -> None:
        """Take over log-probabilities, with at most TOP alternatives each."""
        self.logprobs = array("f", (entry.logprob for entry in entries))
        width = min((len(entry.top) for entry in entries), default=0)
        if width >= TOP:
            self.top_tokens = array("i", (token for e in entries for token, _ in e.top[:TOP]))
            self.top_logprobs = array("f", (logprob for e in entries for _, logprob in e.top[:TOP]))


@dataclass(slots=True)
class Entry:
    """One request: what it asked for, and its outputs, running or ended."""

    request_id: str
    tenant: str
    created: float
    asked: dict[str, Any]
    prompts: list[array[int]] | None
    tracks: list[Track] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    choices: int = 1
    error: str | None = None
    trimmed: bool = False

    @property
    def nbytes(self) -> int:
        prompts = sum(len(prompt) * prompt.itemsize for prompt in self.prompts or ())
        return _ENTRY_BYTES + prompts + sum(track.nbytes for track in self.tracks)

    def trim(self) -> None:
        """Keep the figures only."""
        self.trimmed = True
        self.prompts = None
        for track in self.tracks:
            track.times = array("f")
            track.tokens = track.logprobs = track.top_tokens = track.top_logprobs = None


class Inspector:
    """A bounded memory of requests.

    Parameters
    ----------
    mode : `off` remembers nothing, `meta` figures and times, `full` tokens too
    chosen : a person has asked for this mode; otherwise content is for readers on this machine only
    entries, content_bytes : beyond these the oldest requests lose their content, then are forgotten
    clock : seconds since 1970
    """

    def __init__(
        self,
        mode: Mode,
        *,
        chosen: bool = False,
        entries: int = ENTRIES,
        content_bytes: int = CONTENT_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.mode: Mode = mode
        self.chosen = chosen
        self._most = entries
        self._content_bytes = content_bytes
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._open: dict[str, Entry] = {}
        self._held_bytes = 0

    # --- what happens ---------------------------------------------------------------------------------------

    def add(
        self,
        request_id: str,
        prompts: Sequence[Sequence[int]],
        handles: Sequence[Handle],
        params: SamplingParams,
        tenant: str = "",
    ) -> None:
        """Remember a request that the engine has accepted."""
        if self.mode == "off":
            return
        self._settle()
        entry = self._entry(request_id, prompts, tenant, params)
        entry.running = [handle.sequence for handle in handles]
        entry.choices = len(handles) // max(1, len(prompts))
        self._open[request_id] = entry
        self._remember(entry)

    def refuse(
        self,
        request_id: str,
        prompts: Sequence[Sequence[int]],
        error: BaseException,
        params: SamplingParams,
        tenant: str = "",
    ) -> None:
        """Remember a request that the engine did not take."""
        if self.mode == "off":
            return
        entry = self._entry(request_id, [], tenant, params)
        entry.error = str(error)
        length = sum(len(prompt) for prompt in prompts)
        entry.tracks = [Track(length, 0, 0, "refused", None, None, 0.0)]
        self._remember(entry)

    # --- what is seen ---------------------------------------------------------------------------------------

    def entries(self, tenant: str | None, limit: int = ENTRIES) -> list[Entry]:
        """A tenant's requests, newest first; None for everybody's."""
        self._settle()
        newest = reversed(self._entries.values())
        mine = (entry for entry in newest if tenant is None or entry.tenant == tenant)
        return list(islice(mine, limit))

    def entry(self, request_id: str, tenant: str | None) -> Entry | None:
        """One of a tenant's requests; None when it is another's, or forgotten."""
        self._settle()
        entry = self._entries.get(request_id)
        return entry if entry is not None and tenant in (None, entry.tenant) else None

    def score(self, entry: Entry, index: int, scores: Sequence[TokenLogprob]) -> None:
        """Add log-probabilities that were computed after the request had ended."""
        track = entry.tracks[index]
        before = entry.nbytes
        track.keep_scores(scores)
        track.scored = True
        if entry.request_id in self._entries:
            self._held_bytes += entry.nbytes - before
            self._shrink()

    @property
    def held_bytes(self) -> int:
        """Memory of the ended requests, roughly."""
        return self._held_bytes

    # --- bounds ---------------------------------------------------------------------------------------------

    def _entry(
        self, request_id: str, prompts: Sequence[Sequence[int]], tenant: str, params: SamplingParams
    ) -> Entry:
        asked = {name: getattr(params, name) for name in _ASKED}
        kept = [array("i", prompt) for prompt in prompts] if self.mode == "full" else None
        return Entry(request_id, tenant, self._clock(), asked, kept)

    def _remember(self, entry: Entry) -> None:
        if (old := self._entries.pop(entry.request_id, None)) is not None:
            self._held_bytes -= old.nbytes
        self._entries[entry.request_id] = entry
        self._held_bytes += entry.nbytes
        self._shrink()

    def _settle(self) -> None:
        """Pack the records of requests that have ended."""
        ended = [entry for entry in self._open.values() if all(one.closed for one in entry.running)]
        for entry in ended:
            del self._open[entry.request_id]
            before = entry.nbytes
            entry.tracks = [_packed(one, self.mode == "full") for one in entry.running]
            entry.running = []
            if entry.request_id in self._entries:
                self._held_bytes += entry.nbytes - before
        if ended:
            self._shrink()

    def _shrink(self) -> None:
        while len(self._entries) > self._most:
            _, gone = self._entries.popitem(last=False)
            self._open.pop(gone.request_id, None)
            self._held_bytes -= gone.nbytes
        if self._held_bytes <= self._content_bytes:
            return
        newest = next(reversed(self._entries), None)
        for entry in list(self._entries.values()):
            if self._held_bytes <= self._content_bytes:
                return
            if entry.request_id == newest or entry.running or entry.trimmed:
                continue
            before = entry.nbytes
            entry.trim()
            self._held_bytes -= before - entry.nbytes


def usual_mode(host: str, keys: bool) -> Mode:
    """What to remember when nobody has said: content only where the machine's own user is the only reader."""
    return "full" if host in ("127.0.0.1", "localhost", "::1") and not keys else "meta"


def status_of(sequence: Running) -> str:
    """What a running output is doing."""
    if sequence.closed:
        return "failed" if sequence.error is not None else sequence.finish or "cancelled"
    if sequence.first_at:
        return "decode"
    return "prefill" if sequence.started_at else "queued"


def _packed(sequence: Running, content: bool) -> Track:
    zero = sequence.submitted_at

    def since(moment: float) -> float | None:
        return max(0.0, moment - zero) if moment else None

    times = array("f", (moment - zero for moment in sequence.times or ()))
    outputs = sequence.tokens[sequence.prompt_length :]
    track = Track(
        prompt_tokens=sequence.prompt_length,
        cached_tokens=sequence.cached,
        output_tokens=len(outputs),
        status=status_of(sequence),
        started_s=since(sequence.started_at),
        first_s=since(sequence.first_at),
        total_s=max(0.0, (sequence.finished_at or sequence.submitted_at) - zero),
        matched=sequence.matched if content else None,
        error=str(sequence.error) if sequence.error is not None else None,
        times=times,
    )
    if content:
        track.tokens = outputs
        if sequence.logprobs:
            track.keep_scores(sequence.logprobs)
    return track


def running_track(sequence: Running, now: float, content: bool) -> Track:
    """An output that still runs, as it is at this moment."""
    track = _packed(sequence, content)
    track.status = status_of(sequence)
    track.total_s = now - sequence.submitted_at
    return track
