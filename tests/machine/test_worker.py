from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.machine.worker import Worker, WorkerFailed

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
DRIVER = """
import os, sys, threading, time
from protocol import serve

class Driver:
    def echo(self, text): return {"text": text}
    def talk(self): print("noise on stdout"); os.write(1, b"more noise"); return {}
    def fail(self): raise ValueError("no such thing")
    def end(self): print("last words", file=sys.stderr, flush=True); os._exit(3)
    def hang(self): time.sleep(600)
    def spin(self):
        def loop():
            while True: pass
        threading.Thread(target=loop, daemon=True).start()
        return {}
    def _hidden(self): return {}

serve(Driver())
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with Worker("driver", [sys.executable, str(script)], {"PYTHONPATH": str(PEERS)}) as started:
        yield started


def test_answers_come_back(worker: Worker) -> None:
    assert worker.call("echo", text="ä\n€") == {"text": "ä\n€"}
    assert worker.call("echo", text="x" * 200_000)["text"] == "x" * 200_000


def test_what_a_library_prints_does_not_disturb(worker: Worker) -> None:
    assert worker.call("talk") == {}
    assert worker.call("echo", text="still here") == {"text": "still here"}


@pytest.mark.parametrize("op", ["fail", "nothing", "_hidden"])
def test_an_error_is_an_answer(worker: Worker, op: str) -> None:
    with pytest.raises(WorkerFailed, match="driver failed in"):
        worker.call(op)
    assert worker.call("echo", text="again") == {"text": "again"}


def test_an_end_is_told_with_its_last_words(worker: Worker) -> None:
    with pytest.raises(WorkerFailed, match="last words"):
        worker.call("end")


def test_patience_ends(worker: Worker) -> None:
    with pytest.raises(WorkerFailed, match="in time"):
        worker.call("hang", timeout_seconds=0.3)


def test_an_idle_worker_uses_no_processor(worker: Worker) -> None:
    worker.call("spin")
    before = processor_ticks(worker.pid)
    time.sleep(0.3)
    assert processor_ticks(worker.pid) == before
    assert worker.call("echo", text="awake") == {"text": "awake"}


def test_closing_ends_a_stopped_process(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with Worker("driver", [sys.executable, str(script)], {"PYTHONPATH": str(PEERS)}) as started:
        started.call("echo", text="")
        pid = started.pid
    assert not Path(f"/proc/{pid}").exists()


def processor_ticks(pid: int) -> int:
    # The last signal takes a moment to arrive.
    time.sleep(0.05)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
