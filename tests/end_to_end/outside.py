"""A server seen from outside: its figures at /metrics, its process, and the speed that a polite client gets.

The client is the benchmarks' load generator: a process of its own, so that nothing a test does in this one
(thousands of sockets, threads that send rubbish) is mistaken for slowness of the server.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_server import PATIENCE_S, RealServer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from load.generator import Plan
from load.goodput import carry_out

__all__ = ["Plan", "Standing", "carry_out", "metric", "plan", "port_of", "settles", "standing", "tpot_ms"]


def port_of(server: RealServer) -> int:
    return int(server.url.rpartition(":")[2])


def metric(server: RealServer, name: str, **labels: str) -> float:
    """One figure of /metrics."""
    text = server.client.get("/metrics").text
    inside = "".join(f'(?=[^}}]*{key}="{value}")' for key, value in labels.items())
    found = re.search(rf"^{re.escape(name)}(?:\{{{inside}[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    assert found, f"no {name} in\n{text}"
    return float(found[1])


@dataclass(frozen=True, slots=True)
class Standing:
    """What a server holds on to."""

    pages: int
    requests: int
    tasks: int
    threads: int
    sockets: int


def standing(server: RealServer) -> Standing:
    return Standing(
        pages=int(metric(server, "trimtab:kv_cache_pages", state="held")),
        requests=int(
            metric(server, "trimtab:num_requests_running") + metric(server, "trimtab:num_requests_waiting")
        ),
        tasks=int(metric(server, "trimtab:tasks")),
        threads=len(os.listdir(f"/proc/{server.process.pid}/task")),
        sockets=_sockets(server.process.pid),
    )


def settles(server: RealServer, before: Standing) -> None:
    """Wait until the server holds on to nothing that it did not hold `before`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        now = standing(server)
        # Threads of a pool come once and stay; they are bounded and counted apart.
        if now.pages == now.requests == 0 and now.tasks <= before.tasks and now.sockets <= before.sockets:
            assert now.threads <= before.threads + 40, (before, now)
            return
        assert time.monotonic() < deadline, (before, now)
        time.sleep(0.05)


def plan(server: RealServer, requests: list[tuple[float, dict[str, Any], int]], **more: Any) -> Plan:
    """A plan that is carried out whole."""
    usual: dict[str, Any] = {
        "ttft_s": 1e6,
        "tpot_s": 1e6,
        "most_misses": len(requests),
        "patience_s": PATIENCE_S,
    }
    return Plan(port_of(server), requests, **{**usual, **more})


def body(prompt: str, tokens: int) -> dict[str, Any]:
    return {
        "prompt": prompt, "max_tokens": tokens, "temperature": 0.7, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def tpot_ms(server: RealServer, streams: int = 7, tokens: int = 64) -> float:
    """Milliseconds a token that one client gets, one stream after the other: the median over streams."""
    requests = [(0.4 * n, body(f"Stream {n}: once upon a time", tokens), tokens) for n in range(streams)]
    answer = carry_out(plan(server, requests))
    seen = answer["seen"]
    assert [one["error"] for one in seen] == [""] * streams
    assert [one["tokens"] for one in seen] == [tokens] * streams
    return 1e3 * statistics.median(one["tpot_s"] for one in seen)


def rises(server: RealServer, fault: Callable[[], Any], tries: int = 8) -> float:
    """By which factor a client's TPOT rises while `fault` (a context manager's maker) is on.

    The least of a few tries: what the neighbours of this machine do comes and goes, a slow server stays slow.
    """
    least = float("inf")
    for _ in range(tries):
        before = tpot_ms(server)
        with fault():
            during = tpot_ms(server)
        after = tpot_ms(server)
        least = min(least, during / max(before, after))
        if least <= 1.15:
            break
    return least


def _sockets(pid: int) -> int:
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            count += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
        except OSError:  # closed meanwhile
            continue
    return count
