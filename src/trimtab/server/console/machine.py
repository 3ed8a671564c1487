"""What the machine page shows: the processor, how memory is divided, what a step reads and computes.

The work of a step is arithmetic over the model's shape; what the machine could do at most is measured, once,
when somebody asks and nothing runs, and kept in the user's cache. Knows no routes.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trimtab.errors import BadFile, Busy

if TYPE_CHECKING:
    from pathlib import Path

    from trimtab.models.config import ModelConfig
    from trimtab.server.served import Served

REPORT = "machine"
_MARGIN_BYTES = 16 << 20  # what a measurement may take beside its buffer


def facts(served: Served) -> dict[str, Any]:
    """Everything but the measured limits; nothing here takes longer than reading a few files."""
    from trimtab import _native
    from trimtab.machine.probe import describe

    runner: Any = served.engine.runner
    machine = asdict(describe())
    return {
        "processor": machine,
        "kernels": {
            "set": getattr(runner, "kernels", ""),
            "available": list(_native.kernel_sets()),
            "threads": threads(served),
        },
        "model": _shape(runner.config),
        "memory": memory(served),
        "work": work(served),
    }


def memory(served: Served) -> dict[str, Any]:
    """The budget and what is used of it, in bytes."""
    from trimtab.engine.budget import available_bytes
    from trimtab.machine.probe import resident_bytes

    plan = served.plan
    parts = dict(served.engine.runner.memory)
    return {
        "promised": plan.promised_bytes if plan else None,
        "process": plan.base_bytes if plan else 0,
        "weights": parts.get("weights", 0),
        "scratch": parts.get("scratch", 0),
        "pages": parts.get("pages", 0),
        "resident": resident_bytes(),
        "highest": resident_bytes(key="VmHWM"),
        "available": available_bytes(),
    }


def work(served: Served) -> dict[str, float]:
    """What steps read and compute, for one unit of each kind.

    A multiply-add is two operations. `step_bytes` is read by every step, `page_bytes` for every page of a
    running sequence; `row_ops` are spent on every token, `wanted_ops` on those that are followed by a choice,
    `position_ops` on every earlier position that a token attends to.
    """
    runner: Any = served.engine.runner
    config: ModelConfig = runner.config
    pages = max(1, runner.num_pages)
    found = {
        "step_bytes": getattr(runner, "step_bytes", runner.memory.get("weights", 0)),
        "page_bytes": runner.memory.get("pages", 0) / pages,
    }
    if not hasattr(config, "layers"):
        return found
    inner = config.heads * config.head_dim
    projections = config.hidden * (inner + 2 * config.kv_heads * config.head_dim) + inner * config.hidden
    layer = projections + 3 * config.hidden * config.mlp
    return found | {
        "row_ops": 2 * config.layers * layer,
        "wanted_ops": 2 * config.vocab_size * config.hidden,
        "position_ops": 4 * config.layers * inner,
    }


def threads(served: Served) -> int:
    """Threads of a step."""
    from trimtab.engine.runner import default_threads

    return getattr(served.engine.runner, "threads", 0) or default_threads()


def saved_limits(served: Served, folder: Path | None = None) -> dict[str, Any] | None:
    """Limits measured earlier on this processor with as many threads; None when there are none."""
    from trimtab.formats.cache import cache_dir
    from trimtab.machine.probe import describe
    from trimtab.machine.report import Report

    path = (folder or cache_dir()) / f"{REPORT}.json"
    try:
        report = Report.load(path)
    except BadFile:
        return None
    here = describe()
    same = report.machine.get("processor") == here.processor and report.machine.get("usable") == here.usable
    limits = dict(report.result)
    if not same or limits.get("threads") != threads(served):
        return None
    return {**limits, "date": report.date}


def hindrance(served: Served) -> str:
    """Why the limits cannot be measured now; empty when they can."""
    from trimtab.engine.budget import available_bytes, format_size, resident_bytes
    from trimtab.machine.probe import BUFFER_BYTES

    stats = served.engine.stats()
    if stats["running"] or stats["waiting"]:
        return "requests are running; a measurement now would slow them and be wrong itself"
    need = BUFFER_BYTES + _MARGIN_BYTES
    promised = served.plan.promised_bytes if served.plan else None
    if promised is not None and resident_bytes() + need > promised:
        return (
            f"it takes {format_size(need)} for a moment, which the promise of {format_size(promised)} "
            "does not leave; measure once with a server that has made no promise"
        )
    spare = available_bytes()
    if spare is not None and need > spare:
        return f"it takes {format_size(need)} for a moment, and the machine has {format_size(spare)} to spare"
    return ""


def measure_limits(served: Served, folder: Path | None = None, seconds: float = 0.3) -> dict[str, Any]:
    """Measure the machine's limits, about a second, and keep them in the user's cache.

    Raises
    ------
    Busy : something runs, or there is no memory for it
    """
    from trimtab.formats.cache import cache_dir
    from trimtab.machine.probe import describe, measure
    from trimtab.machine.report import Report, command_line, versions

    if reason := hindrance(served):
        raise Busy(f"the machine cannot be measured now: {reason}")
    steps = served.engine.stats()["steps"]
    limits = measure(threads(served), seconds).as_dict()
    if served.engine.stats()["steps"] != steps:
        raise Busy("a request came in between and has spoilt the measurement", "try again")
    report = Report(
        name=REPORT,
        claim="the most this machine can read and compute",
        machine=asdict(describe()),
        versions=versions(),
        command=command_line(),
        seeds=(),
        samples={},
        result=limits,
    )
    report.save(folder or cache_dir())
    return {**limits, "date": report.date}


def _shape(config: Any) -> dict[str, Any]:
    names = (
        "architecture", "name", "layers", "hidden", "heads", "kv_heads", "head_dim", "mlp", "vocab_size",
        "context", "tied",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names if hasattr(config, name)}
