"""Where the time of a training step went: by stage, module and operator, out of torch's own profiler.

Every microsecond of a step belongs to one operator: the innermost that was running. An operator belongs to
the module under whose name it was called; in the backward pass it belongs to the module of the forward
operator whose gradient it computes, which the profiler links by number. What no module ran is left over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from trimtab.train.trainer import Trainer

STAGE = "stage."
UPDATE = "parameters"  # the module of gradients' sums and of the optimizer
_BACKWARD = "autograd::engine::evaluate_function: "


@dataclass(frozen=True, slots=True)
class Row:
    """What one operator of one module took in one step.

    `stage` is forward, backward, recompute or optimizer; `seconds` is its own time, callees left out.
    """

    stage: str
    module: str
    operator: str
    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Dissection:
    """One step: rows whose seconds sum to what modules took, and how long the step was."""

    rows: tuple[Row, ...]
    step_seconds: float

    @property
    def closure(self) -> float:
        """Share of the step that the rows explain."""
        return sum(row.seconds for row in self.rows) / self.step_seconds


@dataclass(slots=True)
class Event:
    """One record of the profiler; times in nanoseconds, `link` joins forward and backward, -1 for none."""

    name: str
    start: int
    end: int
    link: int = -1
    backward: bool = False


def labels_of(trainer: Trainer) -> frozenset[str]:
    """The names under which `TrainOps` runs this model's modules."""
    layers = range(trainer.config.layers)
    inner = {f"layers.{i}.{part}" for i in layers for part in ("rope", "attention", "gate_up.activation")}
    return frozenset({*trainer.model.names.values(), *inner, "head", "loss"})


def dissect_step(trainer: Trainer, tokens: Tensor) -> Dissection:
    """Take one step under the profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        trainer.step(tokens)
    return attribute(events_of(record), labels_of(trainer))


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes that a step holds beside weights and optimizer state, by the allocator's own account.

    `activations` live at the end of the forward pass; `peak` is the most at any time, gradients included.
    """

    activations: int
    gradients: int
    peak: int

    @property
    def temporary(self) -> int:
        """What lives at the peak beyond the larger of activations and gradients."""
        return self.peak - max(self.activations, self.gradients)


def memory_of_step(trainer: Trainer, tokens: Tensor) -> StepMemory:
    """Take one step and follow every allocation in it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        trainer.step(tokens)
    events = list(record.profiler.kineto_results.events())
    forward_end = max(x.end_ns() for x in events if x.name() == STAGE + "forward")
    changes = sorted((x.start_ns(), x.nbytes()) for x in events if x.name() == "[memory]")
    live = peak = activations = 0
    for at, size in changes:
        live += size
        peak = max(peak, live)
        if at <= forward_end:
            activations = live
    gradients = sum(p.nbytes for p in trainer.model.learning())
    return StepMemory(activations, gradients, peak)


def events_of(record: Any) -> list[Event]:
    """The records of a profile, by start and longest first."""
    found = [
        Event(x.name(), x.start_ns(), x.end_ns(), x.sequence_nr(), x.name().startswith(_BACKWARD))
        for x in record.profiler.kineto_results.events()
        if x.duration_ns() > 0
    ]
    found.sort(key=lambda e: (e.start, -e.end))
    return found


def attribute(events: Sequence[Event], labels: frozenset[str]) -> Dissection:
    """Give every event's own time to a stage, a module and an operator.

    Parameters
    ----------
    events : of one thread, by start and longest first
    """
    module_of_link: dict[int, str] = {}
    spent: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    stack: list[tuple[Event, str, str, str, list[int]]] = []  # event, stage, module, operator, callees' time
    step = 0

    def close(until: int) -> None:
        while stack and stack[-1][0].end <= until:
            event, stage, module, operator, callees = stack.pop()
            own = event.end - event.start - callees[0]
            if stack:
                stack[-1][4][0] += event.end - event.start
            if module:
                entry = spent[stage, module, operator]
                entry[0] += not event.name.startswith(STAGE)
                entry[1] += own * 1e-9

    for event in events:
        close(event.start)
        stage, module, operator = stack[-1][1:4] if stack else ("", "", "")
        if event.name.startswith(STAGE):
            stage, module, operator = event.name.removeprefix(STAGE), "", ""
            module = UPDATE if stage == "optimizer" else ""
            operator = "python"
            step += event.end - event.start
        elif event.name in labels:
            module, operator = event.name, "python"
            stage = "recompute" if stage == "backward" else stage
        elif event.backward:
            module = module_of_link.get(
                event.link, UPDATE if event.link < 0 or "Accumulate" in event.name else ""
            )
            operator = event.name.removeprefix(_BACKWARD)
        else:
            operator = event.name.removeprefix("aten::") if stack else ""
            if event.link >= 0 and module and stage in ("forward", "recompute"):
                module_of_link[event.link] = module
        stack.append((event, stage, module, operator, [0]))
    close(2**63)
    rows = tuple(Row(*key, int(calls), seconds) for key, (calls, seconds) in sorted(spent.items()))
    return Dissection(rows, step * 1e-9)
