"""One figure of everything each second, for ten minutes: what the console's charts are drawn from.

A thread reads the engine's counters once a second into a ring, whoever looks; that is a tenth of a
millisecond. A page that opens gets the ring and then one row a second. Rows are written as JSON once, however
many look.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.engine.engine import Engine
    from trimtab.engine.stats import Ended

KEEP = 600
PERIOD_S = 1.0
WINDOW_S = 60.0
"""Percentiles are over the requests that ended in this time."""
QUANTILES = (0.5, 0.9, 0.99)

COLUMNS = (
    "t", "decode", "prefill", "cached", "steps", "rows", "running", "waiting", "pages_held", "pages_idle",
    "resident", "ended", "failed", "refused", "ttft_p50", "ttft_p90", "ttft_p99", "tpot_p50", "tpot_p90",
    "tpot_p99", "drafted", "accepted",
)  # fmt: skip
"""`t` in ms since 1970; decode to rows, drafted and accepted are a second; latencies in ms or null."""

Row = list[float | int | None]


class Live:
    """The ring and the thread that fills it.

    Parameters
    ----------
    clock : seconds since 1970, for people
    resident : bytes of this process now
    """

    def __init__(
        self,
        *,
        keep: int = KEEP,
        clock: Callable[[], float] = time.time,
        resident: Callable[[], int] | None = None,
    ) -> None:
        self._rows: deque[tuple[int, str]] = deque(maxlen=keep)
        self._clock = clock
        self._resident = resident
        self._last: dict[str, Any] | None = None
        self._last_at = 0.0
        self._count = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, engine: Engine) -> None:
        """Begin to sample; called once, from any thread."""
        self._thread = threading.Thread(target=self._run, args=(engine,), name="live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and every stream."""
        self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def since(self, number: int) -> tuple[int, list[str]]:
        """The newest row's number, and all rows after `number` as JSON; 0 gives everything."""
        rows = tuple(self._rows)
        return (rows[-1][0] if rows else number), [text for at, text in rows if at > number]

    def sample(self, engine: Engine) -> None:
        """Add one row."""
        now, stats = engine.now, engine.stats()
        before, seconds = self._last, now - self._last_at
        self._last, self._last_at = stats, now
        if before is None or seconds <= 0:
            return
        self._count += 1
        row = _row(before, stats, seconds)
        row[0] = round(self._clock() * 1000)
        row[10] = self._resident() if self._resident is not None else _resident()
        row[14:20] = _latencies(engine.recent(), now)
        self._rows.append((self._count, json.dumps(row, separators=(",", ":"))))

    def _run(self, engine: Engine) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            self.sample(engine)
            # A machine that slept does not make up for it.
            due = max(due + PERIOD_S, time.monotonic())


def _row(before: dict[str, Any], after: dict[str, Any], seconds: float) -> Row:
    def rate(name: str) -> float:
        count: int = max(0, after[name] - before[name])
        return round(count / seconds, 1)

    def ended(*reasons: str) -> int:
        return sum(after["requests"].get(reason, 0) - before["requests"].get(reason, 0) for reason in reasons)

    empty: Row = [None] * 6
    return [
        0, rate("output_tokens"), rate("prompt_tokens"), rate("cached_tokens"), rate("steps"), rate("rows"),
        after["running"], after["waiting"], after["pages_held"], after["pages_idle"], 0,
        ended("stop", "length"), ended("failed"), ended("refused"), *empty, rate("drafted_tokens"),
        rate("accepted_tokens"),
    ]  # fmt: skip


def _latencies(recent: Sequence[Ended], now: float) -> Row:
    """Percentiles of TTFT and TPOT in ms."""
    late = [one for one in recent if now - one.at <= WINDOW_S]
    ttft = sorted(one.ttft for one in late)
    tpot = sorted(one.tpot for one in late if one.tpot is not None)
    return [*_quantiles(ttft), *_quantiles(tpot)]


def _quantiles(ordered: list[float]) -> Row:
    """Nearest rank: a value that really occurred."""
    if not ordered:
        return [None] * len(QUANTILES)
    last = len(ordered) - 1
    return [round(ordered[min(last, int(q * len(ordered)))] * 1000, 3) for q in QUANTILES]


def _resident() -> int:
    from trimtab.engine.budget import resident_bytes

    return resident_bytes()
