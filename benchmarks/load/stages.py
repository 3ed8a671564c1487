"""One rate of requests at a server: latencies as the client saw them, and trimtab's own account of each.

trimtab's server is asked to record itself meanwhile, as an administrator would; the other servers have no
such account. Knows trials and recordings; which servers and rates is the caller's business.
"""

from __future__ import annotations

import http.client
import statistics
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from load import goodput
from load.arrivals import Arrival
from trimtab.machine.dissect.dissection import Seen, dissect
from trimtab.machine.spans import Recording

PATH = "/console/api/recording"
LONGEST_S = 120
ANYTHING = goodput.Objective(ttft_s=600.0, tpot_s=60.0)


def offered(
    port: int, rate: float, arrivals: Sequence[Arrival], body: goodput.Body, *, recorded: bool
) -> dict[str, Any]:
    """Offer the arrivals at a rate and see them through: quantiles, every latency, and the stages."""
    first = arrivals[0].at
    coming = [replace(each, at=each.at - first) for each in arrivals]
    recorder = Recorder(port) if recorded else None
    if recorder is not None:
        recorder.start()
    made, seen = goodput.trial(port, rate, coming, body, ANYTHING, whole=True, patience_s=600)
    fine = [one for one in seen if not one["error"]]
    row: dict[str, Any] = {
        "rate": rate, "requests": len(fine), "failed": len(seen) - len(fine), "ttft_s": made.ttft_s,
        "tpot_s": made.tpot_s, "ttft": sorted(one["ttft_s"] for one in fine),
        "tpot": sorted(one["tpot_s"] for one in fine),
    }  # fmt: skip
    if recorder is not None:
        # The generator counts from when a request was due; a client sees it from when it was sent.
        clients = {
            one["id"]: Seen(one["ttft_s"] - one["late_s"], one["total_s"] - one["late_s"]) for one in fine
        }
        row |= split(recorder.end(), clients)
    return row


def split(content: bytes, clients: dict[str, Seen]) -> dict[str, Any]:
    """Medians of the stages, and how much of each request's latency they explain."""
    table = dissect(Recording.from_bytes(content), None, seen=clients)["requests"]
    closures = sorted(row["closure"] for row in table["rows"] if "closure" in row)
    firsts = sorted(row["first_closure"] for row in table["rows"] if "first_closure" in row)
    return {
        "stages": table["medians"],
        "explained": statistics.median(closures) if closures else 0.0,
        "explained_worst": min(closures, key=lambda value: -abs(value - 1), default=0.0),
        "explained_first": statistics.median(firsts) if firsts else 0.0,
        "explained_requests": len(closures),
    }


class Recorder:
    """A server's recording, from `start` to `end`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._answer: tuple[int, bytes] = (0, b"")
        self._thread = threading.Thread(target=self._record, daemon=True)

    def start(self) -> None:
        self._thread.start()
        while self._thread.is_alive() and b"true" not in self._ask("GET", PATH)[1]:
            pass

    def end(self) -> bytes:
        """The recording.

        Raises
        ------
        RuntimeError : the server gave none
        """
        self._ask("DELETE", PATH)
        self._thread.join()
        status, content = self._answer
        if status != 200:
            raise RuntimeError(f"the server recorded nothing: {status} {content[:200]!r}")
        return content

    def _record(self) -> None:
        self._answer = self._ask("POST", f"{PATH}?seconds={LONGEST_S}&format=recording")

    def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LONGEST_S + 60)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
