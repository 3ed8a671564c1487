"""The event log of a conversation: what it is made of, what each part cost, and whether the parts add up.

One CSV a (iteration, conversation) with every event, one JSON with texts, token counts and arrival times. The
energy of an event is cut out of the meter's trace, or modelled from what the event did; the parts are
compared with a total that is taken on its own.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from trimtab.evaluate.device.driver import Event, Turn
from trimtab.evaluate.device.engines import Work
from trimtab.machine.power.energy import Energy, EnergyTrace, total
from trimtab.machine.power.model import Activity, PowerModel

COLUMNS = (
    "iteration", "conversation", "turn", "event", "start_s", "duration_s", "core_seconds", "steal",
    "prompt_tokens", "computed_tokens", "output_tokens", "joules", "joules_low", "joules_high",
    "energy_source",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """A conversation as it was held.

    Parameters
    ----------
    start_s, wall_s : taken around all of it, by the coordinator
    core_seconds : of the engine between these moments
    turns : the answers; `computed` says how many tokens of each prompt the engine had to compute
    between : the coordinator's own events, each with the number of its turn
    """

    iteration: int
    conversation: int
    start_s: float
    wall_s: float
    core_seconds: float
    turns: Sequence[Turn]
    computed: Sequence[int]
    between: Sequence[tuple[int, Event]] = field(default_factory=tuple)

    def events(self) -> list[tuple[int, Event]]:
        """Everything in order of time, with the turn it belongs to."""
        found = [(number, event) for number, turn in enumerate(self.turns) for event in turn.events]
        return sorted([*found, *self.between], key=lambda pair: pair[1].start_s)

    @property
    def closure(self) -> float:
        """Sum of the events' windows over the wall time; 1 when nothing is missing or counted twice."""
        return sum(event.duration_s for _, event in self.events()) / self.wall_s


@dataclass(frozen=True, slots=True)
class Accounted:
    """A conversation's energy, by event and in all.

    Parameters
    ----------
    parts : one an event, in the order of `Held.events`
    whole : from the conversation's own start, end and totals, not from the parts
    """

    parts: Sequence[Energy]
    whole: Energy

    @property
    def closure(self) -> float:
        """Sum of the parts over the whole."""
        added = total(self.parts)
        return 1.0 if added is None else added / self.whole


def account(held: Held, work: Work, trace: EnergyTrace | None, model: PowerModel | None) -> Accounted | None:
    """Energy of every event: measured if the trace covers the conversation, else modelled, else None."""
    if not held.turns:
        return None
    events = held.events()
    end = held.start_s + held.wall_s
    if trace is not None and trace.covers(min(held.start_s, events[0][1].start_s), max(end, _end(events))):
        parts = [trace.between(event.start_s, event.end_s) for _, event in events]
        return Accounted(parts, trace.between(held.start_s, end))
    if model is None:
        return None
    parts, moved, done = [], 0.0, 0.0
    for number, event in events:
        effort = work_in(held, work, number, event)
        moved, done = moved + effort[0], done + effort[1]
        parts.append(model.energy(Activity(event.duration_s, event.core_seconds, *effort)))
    return Accounted(parts, model.energy(Activity(held.wall_s, held.core_seconds, moved, done)))


def work_in(held: Held, work: Work, number: int, event: Event) -> tuple[float, float]:
    """(DRAM bytes, operations) of an event of turn `number`."""
    if not 0 <= number < len(held.turns):
        return 0.0, 0.0
    turn, computed = held.turns[number], held.computed[number]
    if event.name == "prefill":
        return work.prefill(computed, turn.prompt_tokens - computed)
    if event.name == "decode":
        return work.decode(turn.output_tokens - 1, turn.prompt_tokens)
    return 0.0, 0.0


def write_log(folder: Path, held: Held, accounted: Accounted | None) -> Path:
    """The conversation's CSV and JSON; returns the CSV's path."""
    name = f"r{held.iteration:03d}-c{held.conversation:03d}"
    energies: Sequence[Energy | None] = (
        accounted.parts if accounted is not None else [None] * len(held.events())
    )
    path = folder / f"events-{name}.csv"
    with whole(path) as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for (number, event), energy in zip(held.events(), energies, strict=True):
            turn = held.turns[number] if 0 <= number < len(held.turns) else None
            told = {} if energy is None else energy.as_json()
            rows.writerow([
                held.iteration, held.conversation, number, event.name, f"{event.start_s:.6f}",
                f"{event.duration_s:.6f}", f"{event.core_seconds:.4f}", f"{event.steal:.4f}",
                turn.prompt_tokens if turn else "", held.computed[number] if turn else "",
                turn.output_tokens if turn else "", told.get("joules", ""), told.get("low", ""),
                told.get("high", ""), told.get("source", ""),
            ])  # fmt: skip
    content = {
        "iteration": held.iteration,
        "conversation": held.conversation,
        "start_s": held.start_s,
        "wall_s": held.wall_s,
        "core_seconds": held.core_seconds,
        "turns": [_turn(turn, computed) for turn, computed in zip(held.turns, held.computed, strict=True)],
    }
    write_json(folder / f"conversation-{name}.json", content)
    return path


def write_json(path: Path, content: Any) -> None:
    """One JSON value, in one piece."""
    with whole(path) as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.write("\n")


def _turn(turn: Turn, computed: int) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(turn).items() if name != "events"}
    events = [{"event": e.name, **{k: v for k, v in asdict(e).items() if k != "name"}} for e in turn.events]
    return {**kept, "computed_tokens": computed, "events": events}


def _end(events: Sequence[tuple[int, Event]]) -> float:
    return max(event.end_s for _, event in events)


@contextmanager
def whole(path: Path) -> Iterator[IO[str]]:
    """A text file that appears under its name when it is complete."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
