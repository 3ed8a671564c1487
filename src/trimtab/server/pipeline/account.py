"""Sums over all requests of a pipeline, for `/metrics` and the console: bounded, whatever comes.

Guarded by the pipeline's lock.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from trimtab.engine.stats import Histogram

if TYPE_CHECKING:
    from trimtab.server.pipeline.work import Job

RECENT = 64
_NAMES = 128
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)


class Account:
    """Counts, seconds and processor seconds by stage; and the last requests."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}
        self.megapixels = 0.0
        self.items = 0
        self.latency = Histogram(_SECONDS)
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)

    def add(self, job: Job) -> None:
        """A job is over in the pipeline."""
        self.outcomes["done" if job.error is None else type(job.error).__name__] += 1
        for name, cpu_s in job.trace.cpu_s.items():
            self._count(self.cpu_s, name, cpu_s)
        self.megapixels += job.header.megapixels
        self.items += len(job.items)

    def remember(self, job: Job, ended_at: float) -> None:
        """Its answer has been sent, too."""
        budget = job.trace.budget()
        for name, seconds in budget.items():
            self._count(self.seconds, name, seconds)
        total_s = ended_at - job.trace.began
        self.latency.add(total_s)
        self.recent.append(
            {
                "tenant": job.tenant, "width": job.header.width, "height": job.header.height,
                "bytes": len(job.body), "items": len(job.items), "total_ms": round(total_s * 1e3, 3),
                "stages_ms": {name: round(value * 1e3, 3) for name, value in budget.items()},
                "cpu_ms": {name: round(value * 1e3, 3) for name, value in job.trace.cpu_s.items()},
            }
        )  # fmt: skip

    def _count(self, to: dict[str, float], name: str, value: float) -> None:
        if name in to or len(to) < _NAMES:
            to[name] = to.get(name, 0.0) + value
