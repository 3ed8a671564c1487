"""The load generator: a process of its own that sends pictures when they are due, or as fast as answers come.

Open loop: the schedule is kept whatever the server does, and every time counts from the moment a picture
was due, so that a slow server cannot hide by slowing its clients down (coordinated omission). Closed loop:
a fixed number of clients each wait for their answer, which finds the highest throughput and says nothing of
tails. As a program it reads one plan as JSON from stdin and prints one result; its own lateness and
processor time are part of that.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send.

    Parameters
    ----------
    files : of the pictures
    order : which picture comes first, second and so on
    due_s : seconds after the start, one for each of `order`; empty for a closed loop
    clients : of a closed loop
    patience_s : a request that takes longer is given up
    keep : answers are kept, for the accounts in them
    """

    port: int
    files: list[str]
    order: list[int]
    due_s: list[float] = field(default_factory=list)
    clients: int = 1
    path: str = "/v1/vision?trace=1"
    patience_s: float = 60.0
    keep: bool = True
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Seen:
    """One request, from outside.

    Parameters
    ----------
    late_s : by how much the generator itself was late
    total_s : from when it was due to its last byte
    status : 0 without an answer
    """

    picture: int
    due_s: float
    late_s: float = 0.0
    total_s: float = 0.0
    status: int = 0
    answer: Any = None


def poisson(rate: float, count: int, seed: int) -> list[float]:
    """When `count` requests are due at `rate` a second; the first one comes at once."""
    source, at, due = random.Random(f"{seed} gaps"), 0.0, []
    for _ in range(count):
        due.append(at)
        at += source.expovariate(rate)
    return due


def carry_out(plan: Plan, timeout_s: float = 600.0) -> dict[str, Any]:
    """Run a plan in a process of its own.

    Returns
    -------
    `seen` (each request), `wall_s`, and the generator's own `cpu_s`
    """
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), "--plan"], input=json.dumps(asdict(plan)),
        capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed; NaN for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class _Wire:
    """Connections to one server; an idle one is used again."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        more = "".join(f"{name}: {value}\r\n" for name, value in plan.headers.items())
        self.bodies = [Path(name).read_bytes() for name in plan.files]
        self.heads = [
            f"POST {plan.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/octet-stream\r\n"
            f"{more}content-length: {len(body)}\r\n\r\n".encode()
            for body in self.bodies
        ]

    async def ask(self, one: Seen, start: float) -> None:
        due = start + one.due_s
        one.late_s = max(0.0, time.perf_counter() - due)
        try:
            async with asyncio.timeout(self.plan.patience_s):
                body = await self._exchange(one)
            if self.plan.keep and one.status == 200:
                one.answer = json.loads(body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            one.status = 0
        one.total_s = time.perf_counter() - due

    async def _exchange(self, one: Seen) -> bytes:
        pair = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.plan.port)
        reader, writer = pair
        try:
            writer.write(self.heads[one.picture])
            writer.write(self.bodies[one.picture])
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            one.status = int(head[9:12])
            fields = head.lower().split(b"\r\n")
            length = next(int(f[15:]) for f in fields if f.startswith(b"content-length:"))
            body = await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in fields:
            writer.close()
        else:
            self.idle.append(pair)
        return body


async def _run(plan: Plan) -> dict[str, Any]:
    wire = _Wire(plan)
    gc.disable()
    cpu_s, start = time.process_time(), time.perf_counter() + 0.05
    if plan.due_s:
        seen = [Seen(picture, due) for picture, due in zip(plan.order, plan.due_s, strict=True)]
        tasks = []
        for one in seen:
            if (wait := start + one.due_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(wire.ask(one, start)))
        await asyncio.gather(*tasks)
    else:
        seen, left = [], iter(plan.order)

        async def client() -> None:
            for picture in left:
                one = Seen(picture, time.perf_counter() - start)
                seen.append(one)
                await wire.ask(one, start)

        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(plan.clients)))
    wall_s = time.perf_counter() - start
    return {"seen": [asdict(one) for one in seen], "wall_s": wall_s, "cpu_s": time.process_time() - cpu_s}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_run(Plan(**json.loads(sys.stdin.read()))))))
