"""What a device run shall do: a YAML or JSON file, checked before anything starts.

Knows names and ranges only; whether a device has a limit or an engine a model is found out by those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trimtab.errors import BadFile, UsageError

_LONGEST_BYTES = 1 << 20


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Closed):
    """Emulated limits of a smaller machine; a core under a quota is no phone's core."""

    memory_bytes: int | None = Field(
        default=None, gt=0, description="ceiling, without swap; `512MB` is understood"
    )
    cpus: float | None = Field(
        default=None, gt=0, le=4096, description="processor time per second of wall time"
    )
    cpuset: str | None = Field(
        default=None, pattern=r"^\d+([,-]\d+)*$", description="processors, like `0-1` or `0,2`"
    )
    read_bytes_per_s: int | None = Field(default=None, gt=0, description="ceiling of reads from the disk")

    @field_validator("memory_bytes", "read_bytes_per_s", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        if isinstance(value, str):
            from trimtab.engine.budget import parse_size

            try:
                return parse_size(value)
            except UsageError as error:
                raise ValueError(error.message) from None
        return value

    @property
    def any(self) -> bool:
        return any(value is not None for value in (self.memory_bytes, self.cpus, self.cpuset)) or bool(
            self.read_bytes_per_s
        )


class Device(_Closed):
    """A place where engines run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")
    driver: Literal["local", "cgroup", "gpu", "replay"] = "local"
    threads: int | None = Field(default=None, ge=1, le=1024, description="default: the processors it has")
    limits: Limits = Limits()
    throttle: Path | None = Field(default=None, description="CSV of time_s, cpus: a quota replayed over time")
    record: Path | None = Field(default=None, description="folder of a recorded run, for the replay driver")
    meter_record: Path | None = Field(default=None, description="CSV that an outside meter will have written")

    @model_validator(mode="after")
    def _fitting(self) -> Device:
        if self.driver != "cgroup" and (self.limits.any or self.throttle):
            raise ValueError("limits and throttle need `driver: cgroup`")
        if (self.driver == "replay") != (self.record is not None):
            raise ValueError("`record` belongs to `driver: replay`, and must be there")
        return self


class EngineChoice(_Closed):
    """A program that serves a model over OpenAI's HTTP interface."""

    name: Literal["trimtab", "llama.cpp", "openai"]
    title: str | None = Field(default=None, description="name in the report")
    command: tuple[str, ...] = Field(
        default=(), description="of `openai`: with {model}, {port}, {threads}, {context}"
    )
    url: str | None = Field(
        default=None, pattern=r"^http://", description="of `openai`: one that runs already"
    )
    options: tuple[str, ...] = Field(default=(), description="added to the command of trimtab or llama.cpp")

    @model_validator(mode="after")
    def _started(self) -> EngineChoice:
        if (self.name == "openai") != bool(self.command or self.url):
            raise ValueError("`openai` needs a command or a url, and only it takes them")
        if self.command and self.url:
            raise ValueError("either a command or a url")
        return self

    @property
    def label(self) -> str:
        return self.title or self.name


class ModelChoice(_Closed):
    """A model in one or several quantisations.

    `quants` are trimtab's weight formats. An engine that reads quantised files instead gets them in `files`,
    by the same name.
    """

    model: str = "smollm2"
    quants: tuple[str, ...] = Field(default=("auto",), min_length=1)
    files: dict[str, Path] = Field(default_factory=dict)


class Sampling(_Closed):
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_k: int = Field(default=40, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    seed: int = 0


class Sustained(_Closed):
    """Back-to-back prompts, and the trend of their speed."""

    seconds: float = Field(default=600, ge=1)
    window_s: float = Field(default=10, ge=0.1)


class Plan(_Closed):
    """A device run: every device with every engine, model and quantisation."""

    devices: tuple[Device, ...] = Field(default=(Device(name="this machine"),), min_length=1)
    engines: tuple[EngineChoice, ...] = Field(default=(EngineChoice(name="trimtab"),), min_length=1)
    models: tuple[ModelChoice, ...] = Field(default=(ModelChoice(),), min_length=1)
    conversations: tuple[int, int] = Field(default=(0, 5), description="first, and one past the last, of 50")
    turns: int | None = Field(default=None, ge=1, description="most user turns of each; default: all")
    repetitions: int = Field(default=3, ge=1, le=99)
    context: int = Field(default=1024, ge=64, le=1 << 20)
    max_tokens: int = Field(default=128, ge=2, le=1 << 16)
    lengths: Literal["forced", "free"] = Field(
        default="forced",
        description="forced: equal prompts and output lengths for everyone; free: as the model likes",
    )
    sampling: Sampling = Sampling()
    settle_s: float = Field(default=5, ge=0, le=3600, description="before each job and after")
    timeout_s: float = Field(default=300, gt=0, description="for one turn")
    sustained: Sustained | None = None
    accuracy: bool = Field(
        default=False, description="perplexity and word choice; once a model and quantisation"
    )
    power_model: Path | None = Field(default=None, description="TOML of coefficients for modelled energy")

    @field_validator("conversations")
    @classmethod
    def _span(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1] <= 50:
            raise ValueError("first and end must be 0 to 50, and the first below the end")
        return value

    @model_validator(mode="after")
    def _distinct(self) -> Plan:
        for what, names in (
            ("devices", [device.name for device in self.devices]),
            ("engines", [engine.label for engine in self.engines]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"two {what} have the same name")
        if self.max_tokens >= self.context:
            raise ValueError("max_tokens must be below context")
        return self

    def jobs(self) -> Iterator[Job]:
        """Every combination, in the plan's order."""
        for device in self.devices:
            for engine in self.engines:
                for model in self.models:
                    for quant in model.quants:
                        yield Job(device, engine, model.model, quant, model.files.get(quant))


@dataclass(frozen=True, slots=True)
class Job:
    """One device with one engine, model and quantisation."""

    device: Device
    engine: EngineChoice
    model: str
    quant: str
    file: Path | None = None

    @property
    def folder(self) -> str:
        """A name for its files."""
        parts = (self.device.name, self.engine.label, Path(self.model).stem, self.quant)
        return "_".join("".join(c if c.isalnum() or c in ".-" else "-" for c in part) for part in parts)


def read_plan(path: Path) -> Plan:
    """A plan from a YAML or JSON file; relative paths in it count from its folder.

    Raises
    ------
    BadFile : it cannot be read, or names something that a plan does not have
    UsageError : it is YAML, and PyYAML is not installed
    """
    try:
        if path.stat().st_size > _LONGEST_BYTES:
            raise BadFile(path, "too large for a plan")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(path, f"no readable plan: {error}") from error
    content = _parsed(path, text)
    if not isinstance(content, dict):
        raise BadFile(path, "a plan is a table of settings", hint="begin with `engines:` or `models:`")
    try:
        return _at_home(Plan(**content), path.parent)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise BadFile(path, f"{place}: {reason}" if place else reason) from None
    except TypeError as error:
        raise BadFile(path, f"no plan: {error}") from None


def _parsed(path: Path, text: str) -> Any:
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadFile(path, f"no JSON: {error}") from None
    try:
        import yaml
    except ImportError:
        raise UsageError(
            "YAML plans need PyYAML", "pip install 'trimtab[plans]', or write the plan as JSON", "plan"
        ) from None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadFile(path, f"no YAML: {' '.join(str(error).split())[:300]}") from None


def _at_home(plan: Plan, folder: Path) -> Plan:
    def at(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    devices = tuple(
        device.model_copy(
            update={name: at(getattr(device, name)) for name in ("throttle", "record", "meter_record")}
        )
        for device in plan.devices
    )
    models = tuple(
        model.model_copy(update={"files": {quant: folder / file for quant, file in model.files.items()}})
        for model in plan.models
    )
    update = {"devices": devices, "models": models, "power_model": at(plan.power_model)}
    return plan.model_copy(update=update)
