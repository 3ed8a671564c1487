"""What `/metrics` says: the engine's counters, what calls told when they were over, and the process's memory.

Names are those that dashboards for vLLM know, under `vllm:` and again under `trimtab:`; what only this server
has is under `trimtab:`.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.engine.budget import group_limit, resident_bytes
from trimtab.server.watching.prometheus import Page

if TYPE_CHECKING:
    from trimtab.server.operations import Operations
    from trimtab.server.served import Served
    from trimtab.server.watching.metrics import Metrics

_BOTH = ("trimtab:", "vllm:")


def page(metrics: Metrics, served: Served | None, operations: Operations) -> str:
    """All figures as they are now."""
    labels = {} if served is None else {"model_name": served.name, "engine": "0"}
    both, own = Page(_BOTH, labels), Page(("trimtab:",), labels)
    if served is not None:
        _engine(both, own, served)
    _calls(both, own, metrics)
    own.gauge("draining", "1 while the server is about to end.", float(operations.lifecycle.draining))
    own.gauge("http_requests_active", "Requests under way.", operations.lifecycle.active)
    own.gauge("tasks", "Coroutines under way, this answer's included.", len(asyncio.all_tasks()))
    return both.text() + own.text() + _process()


def _engine(both: Page, own: Page, served: Served) -> None:
    stats = served.engine.stats()
    both.gauge("num_requests_running", "Requests in work.", stats["running"])
    both.gauge("num_requests_waiting", "Requests that wait to start.", stats["waiting"])
    used = stats["pages_held"] / max(1, stats["pages_total"])
    both.gauge("kv_cache_usage_perc", "Share of the KV cache's pages in use, 0 to 1.", used)
    queried = stats["prompt_tokens"] + stats["cached_tokens"]
    both.counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", queried)
    both.counter("prefix_cache_hits", "Prompt tokens found there.", stats["cached_tokens"])
    both.counter("num_preemptions", "Sequences that gave up their pages and were computed again.",
                 stats["preemptions"])  # fmt: skip
    both.counter("prompt_tokens", "Prompt tokens of started requests, cached ones included.", queried)
    both.counter("generation_tokens", "Tokens generated.", stats["output_tokens"])
    _histogram(both, "time_to_first_token_seconds", "From submission to the first token.", stats["ttft_s"])
    # A request's mean, not each gap: nothing is timed per token unless the console asks for it.
    _histogram(both, "inter_token_latency_seconds", "Time between tokens, a request's mean.", stats["tpot_s"])
    own.counter("steps", "Steps of the engine.", stats["steps"])
    own.counter("rows", "Tokens that went through those steps.", stats["rows"])
    own.counter("drafted_tokens", "Tokens guessed by prompt look-up.", stats["drafted_tokens"])
    own.counter("accepted_tokens", "Guessed tokens that were right.", stats["accepted_tokens"])
    own.counters("engine_requests", "Outputs by how they ended.",
                 [({"reason": reason}, count) for reason, count in stats["requests"].items()])  # fmt: skip
    own.gauges("kv_cache_pages", "Pages of the KV cache by use.",
               [({"state": "held"}, stats["pages_held"]), ({"state": "idle"}, stats["pages_idle"]),
                ({"state": "free"},
                 stats["pages_total"] - stats["pages_held"] - stats["pages_idle"])])  # fmt: skip
    own.gauges("memory_planned_bytes", "What the model was given.",
               [({"use": use}, size) for use, size in stats["memory_bytes"].items()])  # fmt: skip
    if "prefix_disk_bytes" in stats:
        own.gauge("prefix_disk_bytes", "Prompts kept on disk for the next start.", stats["prefix_disk_bytes"])
        own.counter("prefix_pages_read", "Pages of prompts read from disk.", stats["prefix_pages_read"])
        own.counter("prefix_pages_written", "Pages written there.", stats["prefix_pages_written"])
    _budget(own, served)


def _budget(own: Page, served: Served) -> None:
    """Memory against what was promised, or else what the plan comes to."""
    plan = served.plan
    if plan is not None:
        budget = plan.promised_bytes or plan.total_bytes
        own.gauge("memory_budget_bytes", "What the process may take: --memory, or the plan.", budget)
    limit = group_limit()
    if limit is not None:
        own.gauge("memory_limit_bytes", "What its control group, a container's, may take.", limit)
    own.gauge("memory_resident_bytes", "What the process takes.", resident_bytes())


def _calls(both: Page, own: Page, metrics: Metrics) -> None:
    both.counters("request_success", "Outputs that came to an end, by reason.",
                  [({"finished_reason": reason}, count) for reason, count in metrics.finished.items()]
                  or [({"finished_reason": "stop"}, 0)])  # fmt: skip
    for name, help_text, histogram in (
        ("e2e_request_latency_seconds", "From arrival to the end of the answer.", metrics.e2e),
        ("request_queue_time_seconds", "Time in the queue.", metrics.queue),
        ("request_prefill_time_seconds", "From the first step to the first token.", metrics.prefill),
        ("request_decode_time_seconds", "From the first token to the last.", metrics.decode),
        ("request_time_per_output_token_seconds", "A request's mean.", metrics.tpot),
        ("request_prompt_tokens", "Tokens of a request's prompts.", metrics.prompt_tokens),
        ("request_generation_tokens", "Tokens of a request's outputs.", metrics.generation_tokens),
    ):
        _histogram(both, name, help_text, histogram.snapshot())
    own.counters("http_requests", "Answers by address and status.",
                 [({"method": method, "path": path, "status": str(status)}, count)
                  for (method, path, status), count in metrics.http.items()])  # fmt: skip
    for name, help_text in (
        ("requests", "Requests of each key."), ("refused", "Those that were answered with 429."),
        ("prompt_tokens", "Prompt tokens of each key."), ("generation_tokens", "Tokens generated for it."),
    ):  # fmt: skip
        samples = [({"tenant": tenant}, counts[name]) for tenant, counts in metrics.by_tenant.items()]
        own.counters(f"tenant_{name}", help_text, samples)


def _process() -> str:
    """What the client libraries tell about every process, under the names they have given it."""
    text = Page(("process_",), {})
    text.gauge("resident_memory_bytes", "Resident memory.", resident_bytes())
    used = os.times()
    text.counter("cpu_seconds", "Processor time, all threads.", used.user + used.system)
    text.gauge("start_time_seconds", "When it started, since 1970.", _STARTED)
    with suppress(OSError):  # not on this system
        text.gauge("open_fds", "Open files and sockets.", len(os.listdir("/proc/self/fd")) - 1)
    return text.text()


def _started() -> float:
    """The start of this process by the kernel's books, or else now."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return time.time()
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


_STARTED = _started()


def _histogram(to: Page, name: str, help_text: str, values: dict[str, Any]) -> None:
    to.histogram(name, help_text, values["buckets"], values["count"], values["sum"])
