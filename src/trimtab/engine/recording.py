"""A recording of a running engine: its spans, and what must be known beside them to read them.

Starts and stops nothing; whoever records does that with `engine.recorder`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trimtab.machine import spans

if TYPE_CHECKING:
    from trimtab.engine.engine import Engine

SWITCHES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LD_PRELOAD", "MALLOC_ARENA_MAX", "MALLOC_CONF")
"""Of the environment, what changes times without a word."""


def take(engine: Engine, facts: Mapping[str, Any] | None = None) -> spans.Recording:
    """Everything recorded of this engine, whose recorder is empty afterwards.

    Parameters
    ----------
    facts : to be added to those about the engine
    """
    memory = memory_of(engine)  # before the recording itself is read, and takes memory
    names = {each.native_id: each.name for each in threading.enumerate() if each.native_id is not None}
    return spans.take(
        engine.recorder, names, getattr(engine.runner, "operations", ()),
        {**describe(engine), "memory": memory, **(facts or {})},
    )  # fmt: skip


def describe(engine: Engine) -> dict[str, Any]:
    """The engine and everything that could make another one's times differ from its own."""
    from dataclasses import asdict

    import trimtab
    from trimtab.machine.probe import describe as machine
    from trimtab.machine.report import versions

    runner: Any = engine.runner
    config = runner.config
    return {
        "stage": "serve",
        "model": config.name,
        "layers": config.layers,
        "threads": getattr(runner, "threads", 1),
        "kernels": getattr(runner, "kernels", ""),
        "weight_bytes": int(runner.memory.get("weights", 0)),
        "step_bytes": getattr(runner, "step_bytes", 0),
        "machine": asdict(machine()),
        "versions": versions(trimtab=trimtab.__version__),
        "environment": {name: os.environ[name] for name in SWITCHES if name in os.environ},
    }


def memory_of(engine: Engine) -> dict[str, int]:
    """Bytes by category, each counted on its own, beside what the system says is resident.

    `reserved` is what the engine may take of the system; `weights`, `pages` and `scratch` what it has.
    """
    from trimtab.machine.footprint import footprint

    runner: Any = engine.runner
    found = footprint()
    parts = dict(getattr(runner, "resident", runner.memory))
    return {
        "weights": parts.get("weights", 0),
        "pages": parts.get("pages", 0),
        "scratch": parts.get("scratch", 0),
        "recorder": int(engine.recorder.resident_bytes),
        "python": found["objects"] + found["heap"],
        "process": found["files"],
        "resident": found["resident"],
        "highest": found["highest"],
        "reserved": sum(runner.memory.values()),
    }
