"""What the machine page shows: the processor, how memory is divided, what a step reads and computes.

The work of a step is arithmetic over the model's shape; what the machine could do at most is measured, once,
when somebody asks and nothing runs, and kept in the machine's profile. Knows no routes.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trimtab.errors import BadFile, Busy, NotMeasured

if TYPE_CHECKING:
    from pathlib import Path

    from trimtab.machine.profile import Profile
    from trimtab.models.config import ModelConfig
    from trimtab.server.served import Served

SECTION = "probe"
"""Where in the machine's profile this page keeps what it measures."""
MAX_AGE_S = 30 * 86_400.0
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
    if not hasattr(config, "heads"):
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


def saved_limits(served: Served, path: Path | None = None) -> dict[str, Any] | None:
    """Limits out of this machine's profile, for as many threads; None when there are none that hold.

    The newer of what this page measured and of what `trimtab measure` did.

    Parameters
    ----------
    path : the profile's file; default the user's
    """
    from trimtab.machine.profile import Profile

    try:
        profile = Profile.load(path)
    except (BadFile, NotMeasured):
        return None
    found = [
        limits
        for limits in (_probed(profile, threads(served)), _profiled(profile, threads(served)))
        if limits
    ]
    return max(found, key=lambda limits: str(limits["date"]), default=None)


def _probed(profile: Profile, count: int) -> dict[str, Any] | None:
    """What this page measured. Somebody asked for it and saw the moment, so a noisy one is shown too."""
    section = profile.sections.get(SECTION)
    if (
        section is None
        or section.problem(MAX_AGE_S, allow_noisy=True)
        or section.data.get("threads") != count
    ):
        return None
    return {**section.data, "date": section.date}


def _profiled(profile: Profile, count: int) -> dict[str, Any] | None:
    """The same figures out of the sections that `trimtab measure` writes."""
    from trimtab.machine.roofline import REGISTER, Ceilings

    try:
        ceilings = Ceilings.of(profile, count, max_age_s=MAX_AGE_S)
        rates = ceilings.rates["read"]
        rows = [row for row in profile.sections["peak"].data["rows"] if row["class"] == REGISTER]
        tops = {row["unit"]: row for row in rows if row["threads"] == count}
        wide = tops.get("bf16") or tops["float32"]
        return {
            "threads": count,
            "read_bytes_per_s": rates[-1][1],  # of the largest working set: from memory
            "best_read_bytes_per_s": rates[-1][1],
            "int8_ops_per_s": tops["int8"]["median"],
            "int8_kind": tops["int8"]["kind"],
            "float_ops_per_s": wide["median"],
            "float_kind": wide["kind"],
            "date": min(profile.sections[name].date for name in ("peak", "bandwidth")),
        }
    except (NotMeasured, LookupError, TypeError):
        return None


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


def measure_limits(served: Served, path: Path | None = None, seconds: float = 0.3) -> dict[str, Any]:
    """Measure the machine's limits, about a second, and keep them in the machine's profile.

    Raises
    ------
    Busy : something runs, or there is no memory for it
    """
    from trimtab.machine.probe import measure
    from trimtab.machine.profile import update, watched

    if reason := hindrance(served):
        raise Busy(f"the machine cannot be measured now: {reason}")
    steps = served.engine.stats()["steps"]
    with watched() as watch:
        limits = measure(threads(served), seconds).as_dict()
    if served.engine.stats()["steps"] != steps:
        raise Busy("a request came in between and has spoilt the measurement", "try again")
    section = watch.section(limits)
    update(SECTION, section, path)
    return {**limits, "date": section.date}


def _shape(config: Any) -> dict[str, Any]:
    names = (
        "architecture", "name", "layers", "hidden", "heads", "kv_heads", "head_dim", "mlp", "vocab_size",
        "context", "tied",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names if hasattr(config, name)}
