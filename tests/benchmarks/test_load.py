"""The load generator keeps its schedule, tells the truth about times, and costs nearly nothing."""

from __future__ import annotations

import itertools
import socketserver
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trimtab.errors import BadFile
from trimtab.machine import spans
from trimtab.machine.dissect.dissection import Seen

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    from load import arrivals, generator, goodput, phases, stages

    yield SimpleNamespace(
        arrivals=arrivals, generator=generator, goodput=goodput, phases=phases, stages=stages
    )
    for name in [name for name in sys.modules if name == "load" or name.startswith("load.")]:
        del sys.modules[name]


@pytest.fixture
def null(load: Any) -> Iterator[int]:
    """The port of a server that answers at once, 2 ms a token."""
    command = [sys.executable, str(load.goodput.GENERATOR), "--null", "0.002"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate()


def body(number: int, arrival: Any) -> dict[str, Any]:
    return {"max_tokens": arrival.output_tokens}


@pytest.mark.parametrize(("pattern", "spread"), [("poisson", 1.0), ("bursts", 2.0)])
def test_arrivals_have_the_stated_rate_spread_and_lengths(load: Any, pattern: str, spread: float) -> None:
    count = 4_000
    arrivals = load.arrivals.synthetic(pattern, count, 7)
    assert arrivals == load.arrivals.synthetic(pattern, count, 7)
    gaps = [after.at - before.at for before, after in itertools.pairwise(arrivals)]
    assert statistics.mean(gaps) == pytest.approx(1.0)
    # The spread of a sample of 4,000 gaps is within a tenth of the distribution's.
    assert statistics.stdev(gaps) == pytest.approx(spread, rel=0.1)
    prompts = sorted(each.prompt_tokens for each in arrivals)
    outputs = sorted(each.output_tokens for each in arrivals)
    assert prompts[count // 2] == pytest.approx(1020 / 8, rel=0.1)
    assert outputs[count // 2] == pytest.approx(129 / 4, rel=0.1)
    assert (prompts[0] >= 12, prompts[-1] <= 520, outputs[0] >= 4, outputs[-1] <= 160) == (True,) * 4


def test_patterns_share_their_lengths(load: Any) -> None:
    """So that a server's two goodputs differ by the arrivals alone."""
    lengths = [
        [(each.prompt_tokens, each.output_tokens) for each in load.arrivals.synthetic(pattern, 50, 7)]
        for pattern in load.arrivals.PATTERNS
    ]
    assert lengths[0] == lengths[1]


def test_a_trace_from_a_file(load: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.0000000,800,400\n"
        "2023-11-16 18:15:47.5000000,8,4\n2023-11-16 18:15:50.0000000,80000,40000\n"
    )
    arrivals = load.arrivals.read(path, 10)
    assert [each.at for each in arrivals] == pytest.approx([0.0, 0.75, 2.0])
    assert [(each.prompt_tokens, each.output_tokens) for each in arrivals] == [
        (100, 100), (12, 4), (520, 160),
    ]  # fmt: skip
    for content in ("", "a,b,c\n1,2\n", "a,b,c\n1,2,x\n", "a,b,c\n5,1,1\n5,1,1\n"):
        path.write_text(content)
        with pytest.raises(BadFile, match="trace"):
            load.arrivals.read(path, 10)


def test_the_generator_is_not_the_bottleneck(load: Any, null: int) -> None:
    """100 requests a second and some 5,000 tokens a second: more than any server here gives."""
    arrivals = load.arrivals.synthetic("poisson", 200, 1)
    trial, seen = load.goodput.trial(null, 100.0, arrivals, body, load.goodput.Objective(1.0, 0.1))
    assert trial.good
    assert (trial.offered, trial.in_time, trial.refused, trial.failed) == (200, 200, 0, 0)
    assert trial.client_cpu_share < 0.8
    for one, arrival in zip(seen, arrivals, strict=True):
        assert one["due_s"] == pytest.approx(arrival.at / 100)
        assert one["total_s"] >= one["ttft_s"] >= one["late_s"] >= 0
        # A token takes at least the 2 ms that the server waits for it.
        assert one["total_s"] - one["ttft_s"] >= 0.002 * (arrival.output_tokens - 1)


class Stubborn:
    """A server that reads one request at a time and gives each `seconds`."""

    def __init__(self, seconds: float, status: str = "200 OK", body: bytes = b"") -> None:
        self.seconds = seconds
        self.answer = f"HTTP/1.1 {status}\r\nRetry-After: 7\r\n\r\n".encode() + body
        self.turn, self.over = threading.Lock(), threading.Event()
        stubborn = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while self.rfile.readline().strip():
                    pass
                with stubborn.turn:
                    stubborn.over.wait(stubborn.seconds)
                self.wfile.write(stubborn.answer)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Stubborn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()  # waits for the handlers
        self._thread.join()


TEXT = b'data: {"choices":[{"text":"a"}]}\n\n'


def test_times_count_from_the_moment_a_request_was_due(load: Any) -> None:
    """A server that takes 50 ms for each, one after the other: the tenth has waited for all of them."""
    coming = [load.arrivals.Arrival(0.0, 1, 1)] * 10
    with Stubborn(0.05, body=TEXT + b"data: [DONE]\n\n") as server:
        objective = load.goodput.Objective(0.26, 1.0)
        trial, seen = load.goodput.trial(server.port, 1.0, coming, body, objective, whole=True)
    waits = sorted(one["ttft_s"] for one in seen)
    assert all(wait >= 0.05 * place for place, wait in enumerate(waits, 1))
    assert trial.in_time <= 5  # the sixth was ready after 0.3 s
    assert not trial.good


def test_refusals_cut_streams_and_silence_are_misses(load: Any) -> None:
    coming = [load.arrivals.Arrival(0.0, 1, 1)] * 3
    objective = load.goodput.Objective(0.2, 1.0)
    with Stubborn(0.0, "429 Too Many Requests") as server:
        trial, seen = load.goodput.trial(server.port, 1.0, coming, body, objective, whole=True)
    assert (trial.refused, trial.failed, trial.in_time) == (3, 0, 0)
    assert {one["retry_after_s"] for one in seen} == {7}
    with Stubborn(0.0, body=TEXT) as server:
        trial, seen = load.goodput.trial(server.port, 1.0, coming, body, objective, whole=True)
    assert (trial.refused, trial.failed, trial.in_time) == (0, 3, 0)
    with Stubborn(0.0, body=TEXT + b'data: {"error": {}}\n\ndata: [DONE]\n\n') as server:
        trial, _ = load.goodput.trial(server.port, 1.0, coming, body, objective, whole=True)
    assert trial.failed == 3
    with Stubborn(60.0) as server:  # never answers: the trial ends once enough have missed
        trial, seen = load.goodput.trial(server.port, 1.0, coming, body, objective)
    assert trial.stopped
    assert {one["error"] for one in seen} == {"late"}
    assert trial.attainment == 0


def test_a_search_ends_around_the_true_goodput(load: Any) -> None:
    def server(limit: float) -> Any:
        def try_rate(rate: float) -> Any:
            fine = rate <= limit
            return load.goodput.Trial(rate, 100, 100 if fine else 50, 0, 0, not fine, {}, {}, {}, 0, {}, 0)

        return try_rate

    for limit in (0.2, 1.0, 7.3):
        for guess in (0.1 * limit, limit, 4 * limit):
            trials = load.goodput.search(server(limit), guess, precision=0.1, most_trials=20)
            assert limit / 1.1 <= load.goodput.goodput(trials) <= limit
    assert load.goodput.goodput(load.goodput.search(server(0.0), 1.0, precision=0.1, most_trials=4)) == 0.0


def test_a_rate_above_a_failed_one_is_luck(load: Any) -> None:
    def trial(rate: float, in_time: int) -> Any:
        return load.goodput.Trial(rate, 100, in_time, 0, 0, False, {}, {}, {}, 0, {}, 0)

    assert load.goodput.goodput([trial(1, 100), trial(3, 99), trial(2, 98)]) == 1


def test_what_switching_costs_is_found_through_a_machine_that_slows_down(load: Any) -> None:
    """Steps take 4 % more while it is on, and each phase's first also what switching takes."""
    at, on, ends, switched = 0.0, False, [0.0], [0.0]
    for number in range(1, 401):
        if number % 10 == 0:
            on = not on
            switched.append(at + 1e-4)
            at += 0.02
        at += 0.003 * (1 + number / 400) * (1.04 if on else 1.0)
        ends.append(at)
    ratios = load.phases.on_over_off(ends, switched)
    assert len(ratios) == 38
    assert statistics.median(ratios) == pytest.approx(1.04, rel=1e-3)
    assert load.phases.on_over_off(ends[:5], switched) == load.phases.on_over_off([], []) == []


def test_a_server_s_recording_is_held_against_its_clients(load: Any) -> None:
    ms = 10**6
    ends = {spans.QUEUE: (0, 4), spans.PREFILL: (4, 24), spans.DECODE: (24, 80)}
    events = [(begin * ms, end * ms, stage, 3) for stage, (begin, end) in ends.items()]
    lane = spans.Lane("MainThread", 1, -1, np.array(events, spans.EVENT))
    facts = {"requests": [{"number": 3, "id": "a", "status": 200}]}
    content = spans.Recording([lane], (), facts).to_bytes()
    found = load.stages.split(content, {"a": Seen(0.03, 0.1), "b": Seen(0.01, 0.02)})
    assert found["explained"] == found["explained_worst"] == pytest.approx(0.8)
    assert (found["explained_requests"], found["explained_first"]) == (1, 0.0)
    assert found["stages"] == pytest.approx({"queue": 0.004, "prefill": 0.02, "decode": 0.056})
    assert load.stages.split(content, {})["explained"] == 0.0
