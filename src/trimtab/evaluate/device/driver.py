"""What a device can be asked: the interface of drivers, and the values that pass through it.

A driver knows its device and no conversation. `prepare` sets the device up, `push` brings the model there,
`start` starts an engine and gives a session, `events`, `power` and `thermal` tell what the device itself has
seen, `stop` ends the engine and says how it ended, `pull` brings the logs here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from trimtab.errors import TrimtabError
from trimtab.machine.power.energy import EnergyTrace

Ending = Literal["ok", "refused", "out of memory", "crashed"]
"""`refused`: the engine itself said that it does not fit; `out of memory`: the system ended it."""


class EngineFailed(TrimtabError):
    """An engine that could not be started, or ended in work; `ending` says how."""

    def __init__(self, message: str, ending: Ending, hint: str = "") -> None:
        super().__init__(message, hint)
        self.ending = ending


@dataclass(frozen=True, slots=True)
class Launch:
    """An engine to be started.

    Parameters
    ----------
    command : with the place of {model}, {port}; empty when `url` is served already
    """

    title: str
    model: Path
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Event:
    """A stretch of time on the coordinator's monotonic clock, and what was done in it."""

    name: str
    start_s: float
    duration_s: float
    core_seconds: float = 0.0
    steal: float = 0.0

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer.

    Parameters
    ----------
    token_times_s : when each piece arrived, on the coordinator's clock
    failure : why there is no (whole) answer; empty if there is
    cached_tokens : of the prompt, what the engine says it did not compute again
    """

    events: Sequence[Event]
    text: str
    prompt_tokens: int
    output_tokens: int
    token_times_s: Sequence[float]
    failure: str = ""
    cached_tokens: int = 0

    def event(self, name: str) -> Event | None:
        return next((event for event in self.events if event.name == name), None)


@dataclass(frozen=True, slots=True)
class Question:
    """What a session is asked: a chat so far, and how to answer."""

    messages: Sequence[Mapping[str, str]]
    max_tokens: int
    forced: bool
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    timeout_s: float = 300.0
    end_tokens: Sequence[int] = ()


class Session(Protocol):
    """A running engine that answers."""

    start_s: float
    """From the start of its process until it answered for the first time."""

    def ask(self, question: Question) -> Turn: ...


@dataclass(frozen=True, slots=True)
class Stopped:
    """How an engine ended, with its highest memory.

    Parameters
    ----------
    peak_bytes : resident, file-backed pages included
    group_peak_bytes : by the control group's count, where there is one
    """

    ending: Ending
    peak_bytes: int = 0
    peak_file_bytes: int = 0
    group_peak_bytes: int | None = None
    detail: str = ""


class Driver(Protocol):
    """A device. Call in the order of the methods; `stop` is safe at any time and more than once."""

    emulation: str
    """What is not real about it, for the report: `emulated limit`, `simulated throttle`; else empty."""

    def prepare(self) -> None: ...

    def push(self, model: Path) -> Path: ...

    def start(self, launch: Launch) -> Session: ...

    def events(self) -> Sequence[Event]: ...

    def power(self) -> EnergyTrace | None: ...

    def thermal(self) -> Sequence[tuple[float, float]]: ...

    def stop(self) -> Stopped: ...

    def pull(self, into: Path) -> Sequence[Path]: ...

    def discard(self) -> None:
        """Throw away what `pull` would bring."""
        ...
