"""What a tenant has taken of its limits: two buckets that fill again with time, and a count.

A request takes one from the first and, before it runs, all that it may come to use from the second; what it
did not use goes back when it ends. Nothing here knows of requests or answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from trimtab.server.access.keys import Limits


class Bucket:
    """So many a minute, all at once if they were saved up.

    A taking of more than a minute's worth is possible from a full bucket, and leaves a debt: nothing is too
    large for ever, and the rate holds over time.
    """

    __slots__ = ("_at", "_clock", "_level", "per_minute")

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    @property
    def level(self) -> float:
        """What is there now; negative in debt."""
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return self._level

    def wait_s(self, count: float) -> float:
        """Seconds until `count` can be taken; 0 if now."""
        # What arithmetic loses in the last bit must not make anybody wait.
        short = min(count, self.per_minute) - self.level
        return max(0.0, short * 60 / self.per_minute) if short > 1e-6 else 0.0

    def take(self, count: float) -> None:
        """Take, or with a negative count give back."""
        self._level = min(float(self.per_minute), self.level - count)

    @property
    def full_in_s(self) -> float:
        """Seconds until nothing of it is missing."""
        return (self.per_minute - self.level) * 60 / self.per_minute


class Quota:
    """One tenant's use of its limits; who looks and takes holds `lock`: batches have their own thread."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.lock = threading.Lock()
        self.running = 0
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.limits = Limits()
        self.follow(limits)

    def follow(self, limits: Limits) -> None:
        """Limits may have changed; what was taken stays taken where they have not."""
        if limits == self.limits:
            return
        self.limits = limits
        self.requests = self._bucket(self.requests, limits.requests_per_minute)
        self.tokens = self._bucket(self.tokens, limits.tokens_per_minute)

    def headers(self) -> dict[str, str]:
        """What is left, as OpenAI's answers tell it."""
        found: dict[str, str] = {}
        for kind, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                found[f"x-ratelimit-limit-{kind}"] = str(bucket.per_minute)
                found[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(bucket.level + 1e-6)))
                found[f"x-ratelimit-reset-{kind}"] = span(bucket.full_in_s)
        return found

    def _bucket(self, old: Bucket | None, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        if old is not None and old.per_minute == per_minute:
            return old
        return Bucket(per_minute, self._clock)


class Quotas:
    """Every tenant's, by name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quotas: dict[str, Quota] = {}

    def of(self, name: str, limits: Limits) -> Quota:
        """The one of this tenant, under the limits it has now."""
        quota = self._quotas.get(name)
        if quota is None:
            quota = self._quotas[name] = Quota(limits, self._clock)
        quota.follow(limits)
        return quota


def span(seconds: float) -> str:
    """A time as OpenAI writes it: `250ms`, `7.5s`, `1m30s`."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"
