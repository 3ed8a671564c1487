"""One measured cell of the training dissection: a model, a set of techniques, a batch, and what a step costs.

Everything is of one process, so that its resident memory is the cell's own. The result is plain data.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trimtab.errors import UsageError
from trimtab.train.costs import StepCosts
from trimtab.train.dissect import Dissection, dissect_step, memory_of_step
from trimtab.train.shapes import llama_shape
from trimtab.train.trace import StepTrace, trace_step
from trimtab.train.trainer import Techniques, Trainer
from trimtab.train.watch import Memory, Watch

if TYPE_CHECKING:
    from trimtab.formats.source import TensorSource
    from trimtab.models.config import ModelConfig

DROPPED = 3  # first steps, which allocate and compile


class Cell:
    """A trainer and its data, ready to be stepped.

    Parameters
    ----------
    source : the checkpoint; None for random weights
    batch, length : sequences of a step and tokens of each

    Raises
    ------
    UsageError : a length of fewer than two tokens, or more than the model's context
    """

    def __init__(
        self, config: ModelConfig, source: TensorSource | None, techniques: Techniques, *, batch: int = 1,
        length: int = 128, threads: int | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        if not 2 <= length <= config.context:
            raise UsageError(f"sequences of {length} tokens", f"2 to {config.context}", "length")
        torch.set_num_threads(threads or torch.get_num_threads())
        self._folder = tempfile.TemporaryDirectory(prefix="trimtab-train-")
        folder = Path(self._folder.name)
        # What the libraries take for themselves at their first step is not the cell's.
        Trainer(llama_shape(1, 64, 64), None, techniques, folder=folder).step(
            torch.zeros(1, 64, dtype=torch.long)
        )
        gc.collect()
        self._before, self.growth, self.highest_growth = Memory.now(), Memory(), 0
        self.config, self.techniques = config, techniques
        self.batch, self.length = batch, length
        self.trainer = Trainer(config, source, techniques, folder=folder)
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, config.vocab_size, (batch, length), generator=generator)

    def warm(self) -> list[float]:
        """The first steps; their losses. The last of them is watched for resident memory."""
        losses = [self.trainer.step(self.tokens) for _ in range(DROPPED - 1)]
        with Watch() as watch:
            losses.append(self.trainer.step(self.tokens))
        self.growth = watch.most - self._before
        self.highest_growth = watch.highest - self._before.resident
        return losses

    def step_seconds(self) -> float:
        """Time of one step."""
        begin = time.perf_counter()
        self.trainer.step(self.tokens)
        return time.perf_counter() - begin

    def memory(self) -> dict[str, int]:
        """Bytes by category, as allocated, and the resident memory that the cell added at its peak.

        `rss_growth` is what was resident when a step had the most in use, less what was before the model; see
        `warm`. `spare` is what the C library kept then of what it was given back: the forward pass and the
        backward pass are threads of their own, and neither gets what the other has left. `rss_highest` is the
        most that was resident at any time, the same less.
        """
        held = self.trainer.held()
        step = memory_of_step(self.trainer, self.tokens)
        return {
            **held, "activations": step.activations, "gradients": step.gradients,
            "temporary": step.temporary, "peak_beside": step.peak,
            "allocated_peak": held["weights"] + held["optimizer"] + step.peak,
            "spare": self.growth.spare, "rss_growth": self.growth.resident,
            "rss_highest": self.highest_growth,
        }  # fmt: skip

    def dissection(self) -> Dissection:
        """One step under the profiler."""
        return dissect_step(self.trainer, self.tokens)

    def trace(self) -> StepTrace:
        """The same step without running it."""
        return trace_step(self.config, self.techniques, self.batch, self.length)

    def close(self) -> None:
        self._folder.cleanup()


def run(
    cell: Cell, costs: StepCosts, steps: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure a cell: steps with and without the recorder in turns, memory, and what was predicted."""
    say("first steps")
    losses = cell.warm()
    plain, recorded, dissections = [], [], []
    for number in range(steps):
        say(f"step {number + 1}/{steps}")
        plain.append(cell.step_seconds())
        dissections.append(cell.dissection())
        recorded.append(dissections[-1].step_seconds)
    say("memory")
    memory = cell.memory()
    trace = cell.trace()
    middle = dissections[recorded.index(sorted(recorded)[len(recorded) // 2])]
    return {
        "techniques": str(cell.techniques), "batch": cell.batch, "length": cell.length, "losses": losses,
        "step_seconds": plain, "recorded_seconds": recorded,
        "median_seconds": statistics.median(plain), "closure": middle.closure,
        "recorder_ratio": statistics.median(r / p for r, p in zip(recorded, plain, strict=True)),
        "predicted_seconds": costs.step_seconds(trace),
        "arithmetic_seconds": costs.arithmetic_seconds(trace),
        "operations": trace.operations(), "memory": memory,
        "predicted_bytes": trace.total_bytes,
        "modules": table_of(middle, "module"), "operators": operators_of(middle, trace, costs),
    }  # fmt: skip


def table_of(dissection: Dissection, by: str) -> list[dict[str, Any]]:
    """Seconds and share of the step by stage and, `module` or `operator`, the largest first.

    A module is named without its layer's number: the same part of all layers is one row.
    """
    found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for row in dissection.rows:
        name = row.module.split(".", 2)[-1] if by == "module" else row.operator
        entry = found[row.stage, name]
        entry[0] += row.calls
        entry[1] += row.seconds
    rows = [
        {"stage": stage, by: name, "calls": int(calls), "seconds": seconds,
         "share": seconds / dissection.step_seconds}
        for (stage, name), (calls, seconds) in found.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -float(row["seconds"]))


def operators_of(dissection: Dissection, trace: StepTrace, costs: StepCosts) -> list[dict[str, Any]]:
    """The operator table with work, achieved rates, the bound, and what sets it."""
    work: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0])
    for each in trace.operators:
        entry = work[each.stage, each.name]
        entry[0] += each.operations
        entry[1] += each.read_bytes + each.written_bytes
        entry[2] += costs.bound_seconds(each)
        entry[3] += 1
    rows = []
    for row in table_of(dissection, "operator"):
        # What is computed again runs inside the backward pass of the trace.
        stage = "backward" if row["stage"] == "recompute" else row["stage"]
        name = "adamw" if row["operator"] == "_fused_adamw_" else row["operator"]
        if (stage, name) not in work:
            rows.append(row)
            continue
        operations, moved, bound, count = work[stage, name]
        seconds = row["seconds"]
        dispatch = count * costs.dispatch_s
        kind = "dispatch" if dispatch > bound / 2 else "compute" if operations > 0 else "bandwidth"
        rows.append(
            row | {"operations": operations, "bytes": moved, "operations_per_s": operations / seconds,
                   "bytes_per_s": moved / seconds, "bound_seconds": bound, "of_bound": bound / seconds,
                   "class": kind}
        )  # fmt: skip
    return rows
