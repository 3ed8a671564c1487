"""A recorded run as a device: the same files that a run writes, played back without an engine.

This is how records of devices that are not at hand (a phone over ADB, a board with its own sensors) come into
the report, and how the coordinator is tested. Nothing is measured: what it tells was measured when recorded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from trimtab.errors import BadFile, UsageError
from trimtab.evaluate.device.driver import Ending, EngineFailed, Event, Launch, Question, Stopped, Turn
from trimtab.evaluate.device.plan import Device
from trimtab.machine.power.energy import EnergyTrace
from trimtab.machine.power.meters import read_record

_LONGEST_BYTES = 64 << 20


class Replay:
    """Implements `Driver` over a folder of one job's files.

    `conversation-*.json` give the turns in order of their names; `power.csv`, where it is, the power that an
    outside meter has recorded on the same clock; `job.json`, where it is, how the engine ended.
    """

    emulation = "replayed record"

    def __init__(self, device: Device) -> None:
        if device.record is None:
            raise UsageError("the replay driver needs a record", "name its folder with `record:`")
        self._folder = device.record
        self._turns: Iterator[Turn] = iter(())
        self._job: dict[str, Any] = {}

    def prepare(self) -> None:
        if not self._folder.is_dir():
            raise BadFile(self._folder, "no folder of a recorded run")
        self._turns = iter(read_turns(self._folder))
        job = self._folder / "job.json"
        self._job = _json(job) if job.exists() else {}

    def push(self, model: Path) -> Path:
        return model

    def start(self, launch: Launch) -> RecordedSession:
        ending = self._job.get("ending", "ok")
        turns = list(self._turns)
        if ending != "ok" and not turns:
            raise EngineFailed("the recorded engine did not start", cast(Ending, ending))
        return RecordedSession(iter(turns), float(self._job.get("start_s") or 0.0))

    def events(self) -> Sequence[Event]:
        return ()

    def power(self) -> EnergyTrace | None:
        path = self._folder / "power.csv"
        if not path.exists():
            return None
        times, watts = read_record(path)
        return EnergyTrace.of_power(times, watts, "measured:external")

    def tick(self) -> None:
        """Nothing is read while replaying."""

    def thermal(self) -> Sequence[tuple[float, float]]:
        return [(float(moment), float(degrees)) for moment, degrees in self._job.get("thermal", [])]

    def stop(self) -> Stopped:
        told = self._job
        return Stopped(
            cast(Ending, told.get("ending", "ok")),
            int(told.get("peak_bytes") or 0),
            int(told.get("peak_file_bytes") or 0),
        )

    def discard(self) -> None:
        """The record stays where it is."""

    def pull(self, into: Path) -> Sequence[Path]:
        found = []
        for name in ("timeseries.csv", "engine.log"):
            if (self._folder / name).is_file():
                found.append(Path(shutil.copyfile(self._folder / name, into / name)))
        return found


class RecordedSession:
    """Gives the recorded turns, one a question."""

    def __init__(self, turns: Iterator[Turn], start_s: float) -> None:
        self._turns, self.start_s = turns, start_s

    def ask(self, question: Question) -> Turn:
        turn = next(self._turns, None)
        return turn if turn is not None else Turn([], "", 0, 0, [], "the record has no more turns")


def read_turns(folder: Path) -> list[Turn]:
    """Every turn of a job's folder, in order.

    Raises
    ------
    BadFile : a file is no record of a conversation
    """
    found = []
    for path in sorted(folder.glob("conversation-*.json")):
        content = _json(path)
        try:
            for turn in content["turns"]:
                events = [
                    Event(
                        str(each["event"]), float(each["start_s"]), float(each["duration_s"]),
                        float(each.get("core_seconds", 0)), float(each.get("steal", 0)),
                    )
                    for each in turn["events"]
                ]  # fmt: skip
                found.append(
                    Turn(
                        events, str(turn["text"]), int(turn["prompt_tokens"]), int(turn["output_tokens"]),
                        [float(moment) for moment in turn["token_times_s"]], str(turn.get("failure", "")),
                        int(turn.get("cached_tokens", 0)),
                    )
                )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadFile(path, f"no record of a conversation: {type(error).__name__} {error}") from None
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LONGEST_BYTES:
            raise BadFile(path, "too large for a record")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(path, f"no readable record: {error}") from error
    if not isinstance(content, dict):
        raise BadFile(path, "a record is a table")
    return content
