"""The load generator: a process of its own that sends requests when they are due and notes when text comes.

It keeps the schedule whatever the server does, and every time counts from the moment at which a request was
due, so that a slow server cannot hide by slowing its clients down (coordinated omission). It parses as little
as it can: a read is one time stamp and a search for a few bytes. Its own lateness and processor time are part
of what it reports. As a program it reads one plan as JSON from stdin and prints one result.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

_TEXT = re.compile(rb'"text": ?"(?!")')
_COUNTED = re.compile(rb'"completion_tokens": ?(\d+)')
_NAMED = re.compile(rb"^x-request-id: *(\S+)", re.IGNORECASE | re.MULTILINE)
_RETRY = re.compile(rb"^retry-after: *(\d+)", re.IGNORECASE | re.MULTILINE)
_LOOK_S = 0.25
_TAIL = 2_048


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, and when to stop early.

    Parameters
    ----------
    requests : (second at which it is due, body, output tokens it asks for), in order
    ttft_s, tpot_s : a request beyond either has missed
    most_misses : with more the trial is over: its verdict is known
    patience_s : a request that takes longer is given up
    """

    port: int
    requests: list[tuple[float, dict[str, Any], int]]
    ttft_s: float
    tpot_s: float
    most_misses: int
    patience_s: float
    path: str = "/v1/completions"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Seen:
    """One request, from outside; seconds after it was due.

    Parameters
    ----------
    due_s : when it was due, after the start of the trial
    late_s : by how much the generator itself was late
    status : of HTTP, 0 if there was none
    tokens : that the server says it generated, 0 if it does not say
    id : what the server calls it, where it says so
    error : what went wrong, "" if nothing did; when the trial ended first, `late` if it had missed by then
        and `cut` if not
    """

    due_s: float
    asked_tokens: int
    late_s: float = 0.0
    status: int = 0
    ttft_s: float | None = None
    total_s: float | None = None
    longest_gap_s: float = 0.0
    tokens: int = 0
    retry_after_s: int | None = None
    error: str = ""
    id: str = ""

    @property
    def tpot_s(self) -> float | None:
        """Seconds between tokens after the first, until the end of the stream."""
        if self.ttft_s is None or self.total_s is None:
            return None
        return (self.total_s - self.ttft_s) / max(1, self.asked_tokens - 1)


class Client(asyncio.Protocol):
    """One connection for one request."""

    def __init__(self, trial: Trial, seen: Seen, due: float, wire: bytes) -> None:
        self._trial, self._seen, self._due, self._wire = trial, seen, due, wire
        self._tail = b""
        self._last = 0.0
        self.transport: asyncio.Transport | None = None
        self.over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._wire)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        seen = self._seen
        self._tail = self._tail[-_TAIL:] + data
        if seen.status == 0:
            head, end, _ = self._tail.partition(b"\r\n\r\n")
            if not end:
                return
            seen.status = int(head[9:12])
            if found := _NAMED.search(head):
                seen.id = found[1].decode("latin-1")
            if found := _RETRY.search(head):
                seen.retry_after_s = int(found[1])
            if seen.status != 200:
                self.end(f"status {seen.status}")
                return
        if seen.ttft_s is None:
            if _TEXT.search(self._tail):
                seen.ttft_s = now - self._due
                self._last = now
        elif b"data:" in data:
            seen.longest_gap_s = max(seen.longest_gap_s, now - self._last)
            self._last = now
        if b"[DONE]" in self._tail:
            if found := _COUNTED.search(self._tail):
                seen.tokens = int(found[1])
            seen.total_s = now - self._due
            # A stream of tokens that have no text (half a letter each) is one all the same.
            seen.ttft_s = seen.total_s if seen.ttft_s is None else seen.ttft_s
            # With its colon: a model may well write the word error.
            self.end("an error in the stream" if b'"error":' in self._tail else "")

    def connection_lost(self, error: Exception | None) -> None:
        self.end("the connection ended")

    def end(self, error: str) -> None:
        """The last word on this request; whatever comes later is not looked at."""
        if self.over:
            return
        self.over = True
        self._seen.error = error
        if self.transport is not None:
            self.transport.abort()
        self._trial.ended(self)

    def missed(self, now: float) -> bool:
        """It is known that this request misses the objective, whether it has ended or not."""
        seen, plan = self._seen, self._trial.plan
        if self.over and (seen.error or seen.total_s is None):
            return True
        if seen.ttft_s is None:
            return now - self._due > plan.ttft_s
        if seen.ttft_s > plan.ttft_s:
            return True
        total = now - self._due if seen.total_s is None else seen.total_s
        return total - seen.ttft_s > plan.tpot_s * max(1, seen.asked_tokens - 1)

    def expired(self, now: float) -> bool:
        return now - self._due > self._trial.plan.patience_s


class Trial:
    """One plan being carried out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._open: set[Client] = set()
        self._misses = 0
        self._left = len(plan.requests)
        self._done = asyncio.Event()

    async def run(self) -> dict[str, Any]:
        """Send everything, wait for the answers, tell what was seen."""
        loop = asyncio.get_running_loop()
        wires = [self._wire(body) for _, body, _ in self.plan.requests]
        seen = [Seen(due, tokens) for due, _, tokens in self.plan.requests]
        gc.collect()
        gc.disable()
        begin, used = time.perf_counter() + 0.05, time.process_time()
        offset = loop.time() - time.perf_counter()
        tasks: list[asyncio.Task[None]] = []

        def send(index: int) -> None:
            due = begin + seen[index].due_s
            seen[index].late_s = max(0.0, time.perf_counter() - due)
            tasks.append(loop.create_task(self._send(Client(self, seen[index], due, wires[index]))))

        timers = [loop.call_at(begin + one.due_s + offset, send, i) for i, one in enumerate(seen)]
        stopped = await self._watch()
        for timer in timers:
            timer.cancel()
        now = time.perf_counter()
        for client in tuple(self._open):
            client.end("late" if client.missed(now) else "cut")
        wall = time.perf_counter() - begin
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {
            "seen": [asdict(one) | {"tpot_s": one.tpot_s} for one in seen[: len(tasks)]],
            "stopped": stopped,
            "wall_s": wall,
            "cpu_s": time.process_time() - used,
        }

    def ended(self, client: Client) -> None:
        self._open.discard(client)
        self._left -= 1
        if client.missed(time.perf_counter()):
            self._misses += 1
        if self._left == 0:
            self._done.set()

    async def _send(self, client: Client) -> None:
        self._open.add(client)
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: client, "127.0.0.1", self.plan.port)
        except OSError as error:
            client.end(str(error) or type(error).__name__)

    async def _watch(self) -> bool:
        """Until all have ended (False) or too many have missed (True)."""
        while not self._done.is_set():
            try:
                await asyncio.wait_for(self._done.wait(), _LOOK_S)
            except TimeoutError:
                now = time.perf_counter()
                for client in tuple(self._open):
                    if client.expired(now):
                        client.end("gave up")
                hopeless = sum(client.missed(now) for client in self._open)
                if self._misses + hopeless > self.plan.most_misses:
                    return True
        return False

    def _wire(self, body: dict[str, Any]) -> bytes:
        content = json.dumps(body).encode()
        more = "".join(f"{name}: {value}\r\n" for name, value in self.plan.headers.items())
        head = (
            f"POST {self.plan.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\n{more}Content-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


class Null(asyncio.Protocol):
    """A server that answers at once and at an even pace: what is measured on it is the generator's own."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._body = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._body += data
        head, end, body = self._body.partition(b"\r\n\r\n")
        found = re.search(rb"Content-Length: (\d+)", head)
        if end and found and len(body) == int(found[1]):
            self._left = int(json.loads(body)["max_tokens"])
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            self._next()

    def _next(self) -> None:
        if self._left > 0:
            self._left -= 1
            self._transport.write(b'data: {"choices":[{"index":0,"text":" word","finish_reason":null}]}\n\n')
            self._timer = asyncio.get_running_loop().call_later(self._gap_s, self._next)
        else:
            self._transport.write(b"data: [DONE]\n\n")
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def serve_null(gap_s: float) -> None:
    """Run `Null` on a free port, which is printed, until stdin ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Null(gap_s), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    if sys.argv[1:2] == ["--null"]:
        asyncio.run(serve_null(float(sys.argv[2])))
        return
    plan = Plan(**json.load(sys.stdin))
    print(json.dumps(asyncio.run(Trial(plan).run())))


if __name__ == "__main__":
    main()
