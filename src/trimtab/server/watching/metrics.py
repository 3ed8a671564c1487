"""Counts every call when it is over, for `/metrics`; nothing is counted per token.

What the counts look like to Prometheus is written in `metrics_page.py`, which is loaded by the first scrape.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from starlette.responses import Response

from trimtab.engine.stats import Histogram
from trimtab.server.watching.outcome import outcome_of

if TYPE_CHECKING:
    from fastapi import FastAPI

    from trimtab.server.call import Call
    from trimtab.server.operations import Operations
    from trimtab.server.served import Loading

MOST_TENANTS = 100
"""Beyond these, tenants are counted together as `other`: every label costs whoever stores the figures."""
MOST_PATHS = 100

_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_SHORT_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Metrics:
    """Counts calls; belongs to the event loop."""

    def __init__(self) -> None:
        self.http: Counter[tuple[str, str, int]] = Counter()
        self.finished: Counter[str] = Counter()
        self.by_tenant: dict[str, Counter[str]] = {}
        self.e2e = Histogram(_SECONDS)
        self.queue = Histogram(_SHORT_SECONDS)
        self.prefill = Histogram(_SHORT_SECONDS)
        self.decode = Histogram(_SECONDS)
        self.tpot = Histogram(_SHORT_SECONDS)
        self.prompt_tokens = Histogram(_TOKENS)
        self.generation_tokens = Histogram(_TOKENS)
        self._paths: set[str] = set()

    def __call__(self, call: Call) -> None:
        """Take in a call that is over."""
        self.http[call.method, self._path(call), call.status] += 1
        tenant = self._tenant(call.tenant.name)
        tenant["requests"] += 1
        if call.status == 429:
            tenant["refused"] += 1
        if not call.handles:
            return
        found = outcome_of(call)
        tenant["prompt_tokens"] += found.prompt_tokens
        tenant["generation_tokens"] += found.output_tokens
        self.finished.update(_finish(reason) for reason in found.finish_reasons)
        if call.priority > 0:
            return  # nobody waits for it: its times say nothing about the server
        self.e2e.add(found.duration_s)
        self.prompt_tokens.add(found.prompt_tokens)
        self.generation_tokens.add(found.output_tokens)
        for histogram, seconds in (
            (self.queue, found.queue_s), (self.prefill, found.prefill_s), (self.decode, found.decode_s),
            (self.tpot, found.tpot_s),
        ):  # fmt: skip
            if seconds is not None:
                histogram.add(seconds)

    def _tenant(self, name: str) -> Counter[str]:
        if name not in self.by_tenant and len(self.by_tenant) >= MOST_TENANTS:
            name = "other"
        return self.by_tenant.setdefault(name, Counter())

    def _path(self, call: Call) -> str:
        """The address as the API names it: one label, whatever ids it holds."""
        path = call.route or "other"
        if path not in self._paths and len(self._paths) >= MOST_PATHS:
            return "other"
        self._paths.add(path)
        return path


def add_routes(app: FastAPI, loading: Loading, operations: Operations) -> None:
    """Count every call from now on, and tell at `/metrics`."""
    metrics = Metrics()
    operations.listeners.append(metrics)

    @app.get("/metrics", response_model=None, summary="Figures in Prometheus's text format")
    async def scrape() -> Response:
        from trimtab.server.watching.metrics_page import page
        from trimtab.server.watching.prometheus import CONTENT_TYPE

        served = await loading.served() if loading.ready else None
        return Response(page(metrics, served, operations), media_type=CONTENT_TYPE)


def _finish(reason: str) -> str:
    """As vLLM calls it."""
    return "abort" if reason == "cancelled" else "error" if reason in ("failed", "refused") else reason
