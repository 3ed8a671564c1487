"""A pipeline as its YAML file says it: stages with typed ports, workers, batches and limits, checked once.

Knows names and numbers only; what an operation does is in its own module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimtab.errors import BadFile, UsageError
from trimtab.server.pipeline.handover import HAND_OVERS
from trimtab.server.pipeline.ops import OPS, operation

_LONGEST_BYTES = 1 << 20
SUFFIXES = (".yaml", ".yml")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Batching(_Part):
    """When waiting items become a batch."""

    most: int = Field(1, ge=1, le=256, description="items of one batch")
    delay_ms: float = Field(0.0, ge=0, le=10_000, description="longest wait of an item for others")
    bucket: int = Field(
        32, ge=1, le=4096, description="columns; only crops of the same number of buckets share a batch"
    )


class StageSpec(_Part):
    """One stage: an operation, how many of it run at a time, and how items reach it."""

    op: str = Field(description="what it does, from the table of operations")
    name: str = Field("", description="in reports; default: the operation")
    workers: int = Field(0, ge=0, le=64, description="runs at a time; 0: as many as there are cores")
    worker: Literal["thread", "process"] = Field("thread", description="where they run")
    hand_over: str = Field(
        "queue", description="how items reach it: queue, ring, redis-lists, jetstream-file"
    )
    payload: Literal["raw", "jpeg"] = Field("raw", description="how a crop travels to a process")
    batch: Batching = Field(default_factory=lambda: Batching.model_validate({}))
    queue: int = Field(512, ge=1, le=100_000, description="items that may wait before earlier stages pause")
    settings: dict[str, Any] = Field(default_factory=dict, description="of the operation itself")

    @property
    def title(self) -> str:
        return self.name or self.op


class Limits(_Part):
    """What one request may cost the others."""

    megapixels: float = Field(50.0, gt=0, description="largest picture, by its header")
    waiting: int = Field(64, ge=1, description="requests in work or waiting; more are refused with 429")
    deadline_ms: float = Field(30_000.0, gt=0, description="a request older than this ends with 504")
    items: int = Field(1_000, ge=1, description="crops taken from one picture")


class PipelineSpec(_Part):
    """A whole pipeline."""

    name: str = Field("pipeline", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    cores: int = Field(0, ge=0, le=1024, description="threads that work; 0: the processors it may use")
    threads: int = Field(1, ge=1, le=256, description="of each network; more than 1 only pays without load")
    limits: Limits = Field(default_factory=lambda: Limits.model_validate({}))
    stages: tuple[StageSpec, ...] = Field(min_length=1, max_length=32)

    @property
    def gives(self) -> frozenset[str]:
        """Types of everything that is there at the end."""
        return frozenset(port for stage in self.stages for port in operation(stage.op).gives)


def load(path: Path) -> PipelineSpec:
    """Read a pipeline's file.

    Raises
    ------
    UsageError : it cannot be read, or names something that is not there
    BadFile : it is no YAML, or no pipeline
    """
    import yaml

    try:
        if path.stat().st_size > _LONGEST_BYTES:
            raise BadFile(path, "too large for a pipeline")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", param="model") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadFile(path, f"not YAML: {error}") from error
    return checked(content, path)


def checked(content: Any, path: Path | str = "pipeline") -> PipelineSpec:
    """A value as a pipeline.

    Raises
    ------
    BadFile : a field is unknown or wrong, or a stage needs what no earlier one gives
    """
    if not isinstance(content, dict):
        raise BadFile(path, "no pipeline: a mapping with `stages` is expected")
    try:
        spec = PipelineSpec.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadFile(path, f"{place}: {first['msg']}") from error
    there, items, titles = {"bytes"}, False, set[str]()
    for number, stage in enumerate(spec.stages):
        where = f"stages.{number} ({stage.title})"
        if stage.op not in OPS:
            raise BadFile(path, f"{where}: no operation {stage.op!r}", hint=f"there is {', '.join(OPS)}")
        kind = operation(stage.op)
        if lacking := [port for port in kind.takes if port not in there]:
            raise BadFile(path, f"{where}: it takes {lacking[0]!r}, which no earlier stage gives")
        if items and not kind.each:
            raise BadFile(path, f"{where}: it works on whole pictures and cannot follow a stage of crops")
        if stage.title in titles:
            raise BadFile(path, f"{where}: two stages have this name", hint="give one of them a `name`")
        if stage.worker == "process" and not kind.portable:
            raise BadFile(path, f"{where}: {stage.op} does not run in another process")
        if (stage.worker == "thread") != (stage.hand_over == "queue"):
            raise BadFile(
                path, f"{where}: worker {stage.worker} does not go with hand_over {stage.hand_over}",
                hint="threads take from `queue`; processes from ring, redis-lists or jetstream-file",
            )  # fmt: skip
        if stage.hand_over not in HAND_OVERS:
            known = ", ".join(HAND_OVERS)
            raise BadFile(path, f"{where}: no hand_over {stage.hand_over!r}", hint=f"there is {known}")
        try:
            kind.Settings.model_validate(stage.settings)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise BadFile(path, f"{where}: settings.{place}: {first['msg']}") from error
        titles.add(stage.title)
        items = items or kind.each or "crops" in kind.gives
        there |= set(kind.gives)
    return spec
