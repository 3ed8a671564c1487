"""One call of the API: who makes it, what it was given, and how it went.

`gate.py` makes one for every HTTP request; work without a client (batches) makes its own. What the engine
does for it is read off its handles when it ends: nothing is counted per token.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trimtab.engine.fairness import Caller
from trimtab.server.access.keys import ANONYMOUS, Limits, Tenant
from trimtab.server.access.quota import Bucket, Quota, span
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

    from trimtab.engine.handle import Handle
    from trimtab.server.pipeline.work import Job
    from trimtab.server.served import Served

TOO_LATE = "the request took longer than this server allows"
USUAL_OUTPUT_TOKENS = 256
"""What an output without `max_tokens` is expected to take of a limit, until it is known."""


@dataclass(slots=True, eq=False)
class Call:
    """One call, from its arrival to its log line.

    Parameters
    ----------
    quota : what its tenant has taken of its limits
    patience_s : how long it may wait for the engine
    priority : of what the engine does for it; lower goes first
    id : what answers and logs call it
    method, path, client : of the HTTP request, empty without one
    route : the path as the API names it, with the names of its parts; empty for an address nobody has
    handles : everything that the engine does for it
    number : of the request, for whoever records what it goes through; 0 without one
    job : what a pipeline does for it
    """

    tenant: Tenant = ANONYMOUS
    quota: Quota = field(default_factory=lambda: Quota(Limits()))
    patience_s: float = math.inf
    priority: int = 0
    id: str = ""
    method: str = ""
    path: str = ""
    route: str = ""
    client: str = ""
    model: str = ""
    arrived: float = field(default_factory=time.time)  # seconds since 1970, as `ended`
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    status: int = 0
    traceparent: str = ""
    handles: list[Handle] = field(default_factory=list)
    number: int = 0
    job: Job | None = None
    prompt_tokens: int = 0
    expired: bool = False
    _reserved: int = 0
    _marked: float = 0.0

    def salt(self, cache_salt: str | None) -> str:
        """Under which the engine shares prefixes: private to the tenant, and to what the client asks for."""
        return f"{self.tenant.salt}\0{cache_salt or ''}"

    @property
    def caller(self) -> Caller:
        """Who this is to the engine."""
        return Caller(self.tenant.name, self.tenant.weight, self.patience_s)

    def admit(self, served: Served, prompt_tokens: int, output_tokens: int = 0) -> None:
        """Ask for a model and for tokens, before the engine is asked.

        Parameters
        ----------
        output_tokens : the most there may be; what is not used is given back at the end

        Raises
        ------
        ApiError : 403 for a model that is not the tenant's, 429 beyond its tokens, 504 when it is too late
        """
        if self.expired:
            raise ApiError(504, TOO_LATE, code="request_timeout")
        self.model = served.name
        self.check_model(served)
        tokens = prompt_tokens + output_tokens
        bucket = self.quota.tokens
        if bucket is not None:
            with self.quota.lock:
                if wait := bucket.wait_s(tokens):
                    raise over_limit("tokens", "tokens per min (TPM)", bucket, tokens, wait)
                bucket.take(tokens)
            self._reserved += tokens
        self.prompt_tokens += prompt_tokens

    def mark(self, served: Served, stage: int) -> None:
        """A stage of `trimtab.machine.spans` ends here; it began where the last one ended."""
        recorder = served.engine.recorder
        if recorder.on:
            now = time.monotonic()
            recorder.add(stage, self._marked or self.began, now, self.number)
            self._marked = now

    @property
    def marked(self) -> float:
        """When the last stage that was recorded ended, by the clock of `began`."""
        return self._marked or self.began

    def may_use(self, served: Served) -> bool:
        """Whether the model is the tenant's, under any of its names."""
        allowed = self.tenant.limits.models
        return not allowed or bool({served.name, *served.aliases} & set(allowed))

    def check_model(self, served: Served) -> None:
        """Refuse a model that the tenant may not use."""
        if not self.may_use(served):
            raise ApiError(
                403, f"Key `{self.tenant.name}` does not have access to model `{served.name}`.",
                code="model_not_found",
            )  # fmt: skip

    def expire(self) -> None:
        """It has taken longer than this server allows: what runs for it ends."""
        self.expired = True
        for handle in self.handles:
            handle.cause = TOO_LATE
            handle.cancel()
        if self.job is not None:
            self.job.deadline = 0.0

    @property
    def output_tokens(self) -> int:
        """Tokens generated so far."""
        return sum(handle.output_tokens for handle in self.handles)

    def end(self) -> None:
        """It is over: what it did not use of the tenant's tokens is there again. May be called twice."""
        self.ended = self.ended or time.time()
        if self.quota.tokens is not None and self._reserved:
            used = self.prompt_tokens + self.output_tokens if self.handles else 0
            with self.quota.lock:
                self.quota.tokens.take(used - self._reserved)
        self._reserved = 0


def call_of(request: Request) -> Call:
    """The call behind a request."""
    found: Call = request.state.call
    return found


def over_limit(kind: str, words: str, bucket: Bucket, asked: float, wait: float) -> ApiError:
    """The refusal of what is beyond a limit per minute, as OpenAI words it."""
    used = bucket.per_minute - bucket.level
    error = ApiError(
        429,
        f"Rate limit reached on {words}: Limit {bucket.per_minute}, Used {max(0, round(used))}, "
        f"Requested {round(asked)}. Please try again in {span(wait)}.",
        code="rate_limit_exceeded",
    )
    error.kind = kind
    error.headers = retry_after(wait)
    return error


def retry_after(seconds: float) -> dict[str, str]:
    """When to come back: in whole seconds as HTTP has it, and exactly as OpenAI's clients read it."""
    return {"Retry-After": str(max(1, math.ceil(seconds))), "retry-after-ms": str(math.ceil(seconds * 1000))}
