"""This machine as a device: an engine as a child process, watched from outside."""

from __future__ import annotations

import contextlib
import csv
import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from trimtab.evaluate.device.activity import Watcher, core_seconds
from trimtab.evaluate.device.chat import AnswerFailed, ChatSession
from trimtab.evaluate.device.driver import Ending, EngineFailed, Event, Launch, Stopped
from trimtab.evaluate.device.plan import Device
from trimtab.machine.power.energy import EnergyTrace, Meter, open_meter

_POLL_S = 0.02
_REFUSED_EXIT = 4  # trimtab's DoesNotFit
_METER_PERIOD_S = 0.1


class Local:
    """Implements `Driver`."""

    emulation = ""
    on_gpu = False

    def __init__(self, device: Device) -> None:
        self.device = device
        self.watcher: Watcher | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path()
        self._meter: Meter | None = None
        self._readings: list[tuple[float, float]] = []
        self._stopped: Stopped | None = None

    def prepare(self) -> None:
        self._meter = open_meter(gpu=self.on_gpu)
        self._stopped = None

    def push(self, model: Path) -> Path:
        return model  # it is here already

    def start(self, launch: Launch) -> ChatSession:
        """Start the engine and wait until it answers.

        Raises
        ------
        EngineFailed : it ended, or does not answer in time
        """
        ends_by = "logit_bias" if launch.title == "llama.cpp" else "ignore_eos"
        if launch.url is not None:
            session = ChatSession(launch.url, ends_by=ends_by)
            self._wait(session, time.monotonic(), launch)
            return session
        port = _free_port()
        places = {"{model}": str(launch.model), "{port}": str(port)}
        command = [places.get(word, word) for word in launch.command]
        command, more = self._wrapped(command)
        handle, name = tempfile.mkstemp(prefix="trimtab-device-", suffix=".log")
        self._log, begin = Path(name), time.monotonic()
        with os.fdopen(handle, "wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **launch.environment, **more},
            )  # fmt: skip
        number = self._process.pid
        self.watcher = Watcher(number).start()
        session = ChatSession(
            f"http://127.0.0.1:{port}", core_seconds=lambda: core_seconds(number), ends_by=ends_by
        )
        session.start_s = self._wait(session, begin, launch)
        self._started(number)
        return session

    def events(self) -> Sequence[Event]:
        return ()

    def power(self) -> EnergyTrace | None:
        """What the meter has counted; call `tick` between events to give it readings."""
        if self._meter is None or len(self._readings) < 2:
            return None
        times, joules = zip(*self._readings, strict=True)
        return EnergyTrace(times, joules, self._meter.source)

    def tick(self) -> None:
        """Read the meter, if there is one and the last reading is not too near."""
        if self._meter is not None:
            now = time.monotonic()
            if not self._readings or now - self._readings[-1][0] >= _METER_PERIOD_S:
                self._readings.append((now, self._meter.read()))

    def thermal(self) -> Sequence[tuple[float, float]]:
        """(time, degrees Celsius) of the hottest zone; empty where the machine shows none."""
        zones = []
        for path in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
            with contextlib.suppress(OSError, ValueError):
                zones.append(int(path.read_text(encoding="ascii")) / 1000)
        return [(time.monotonic(), max(zones))] if zones else []

    def stop(self) -> Stopped:
        if self._stopped is not None:
            return self._stopped
        process, watcher = self._process, self.watcher
        if process is None:
            self._stopped = Stopped("ok")
        else:
            ended = process.poll()
            if ended is None and watcher is not None:
                watcher.look()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM if ended is None else signal.SIGKILL)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if watcher is not None:
                watcher.stop()
            self._stopped = Stopped(
                "ok" if ended is None else self._ending(ended),
                0 if watcher is None else watcher.peak_bytes,
                0 if watcher is None else watcher.peak_file_bytes,
                self._group_peak(),
                "" if ended is None else self._tail(),
            )
        self._release()
        if self._meter is not None:
            self._meter.close()
            self._meter = None
        return self._stopped

    def pull(self, into: Path) -> Sequence[Path]:
        """Bring the engine's log and the time series there."""
        found = []
        if self._log.is_file():
            target = into / "engine.log"
            target.write_bytes(self._log.read_bytes())
            self._log.unlink()
            found.append(target)
        if self.watcher is not None:
            target = into / "timeseries.csv"
            with target.open("w", encoding="utf-8", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(
                    ("time_s", "resident_bytes", "file_bytes", "core_seconds", "steal_ticks", "total_ticks")
                )
                for each in self.watcher.samples:
                    rows.writerow(
                        (each.time_s, each.resident_bytes, each.file_bytes, each.core_seconds,
                         each.steal_ticks, each.total_ticks)
                    )  # fmt: skip
            found.append(target)
        return found

    def discard(self) -> None:
        if self._log.is_file():
            self._log.unlink()

    def _wrapped(self, command: list[str]) -> tuple[list[str], dict[str, str]]:
        return command, {}

    def _started(self, process: int) -> None:
        """The engine answers."""

    def _release(self) -> None:
        """The engine is gone."""

    def _group_peak(self) -> int | None:
        return None

    def _ending(self, code: int) -> Ending:
        if code == _REFUSED_EXIT:
            return "refused"
        told = self._tail()
        if any(word in told for word in ("MemoryError", "bad_alloc", "Cannot allocate memory")):
            return "out of memory"
        return "crashed"

    def _wait(self, session: ChatSession, begin: float, launch: Launch) -> float:
        """Seconds from `begin` until the engine lists its model."""
        while True:
            try:
                session.model(timeout_s=5)
            except (AnswerFailed, OSError, http.client.HTTPException) as error:
                code = None if self._process is None else self._process.poll()
                if code is None and time.monotonic() - begin < launch.timeout_s:
                    time.sleep(_POLL_S)
                    continue
                ending: Ending = "crashed" if code is None else self._ending(code)
                reason = self._tail() or str(error)
                raise EngineFailed(f"{launch.title} does not answer ({ending}): {reason}", ending) from error
            return time.monotonic() - begin

    def _tail(self) -> str:
        try:
            text = self._log.read_bytes()[-1500:].decode(errors="replace")
        except OSError:
            return ""
        return " | ".join(filter(None, text.splitlines()[-6:]))


def _free_port() -> int:
    with socket.socket() as looking:
        looking.bind(("127.0.0.1", 0))
        return int(looking.getsockname()[1])
