"""Fitted request times in the machine profile: section `llm`, one entry a model, engine and settings.

Each entry carries its own stamp of date and disturbance, so that a busy minute of one model says nothing
against another's quiet one. The planner asks `expected_request_seconds`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.errors import BadFile, NotMeasured, UsageError
from trimtab.machine import profile as profiles
from trimtab.machine.profile import DAY_S, Profile, Section
from trimtab.machine.requests.model import RequestModel

SECTION = "llm"
_HEAD_BYTES = 1 << 20


def model_identity(path: Path) -> str:
    """A model's file by content: its name, and a digest of its size and first mebibyte."""
    file = path
    if path.is_dir():
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*"))
        if not files:
            raise BadFile(path, "an empty folder is no model")
        file = files[0]
    with file.open("rb") as opened:
        digest = hashlib.sha256(opened.read(_HEAD_BYTES) + str(file.stat().st_size).encode())
    return f"{path.name}#{digest.hexdigest()[:12]}"


def save(fitted: RequestModel, stamp: Section, path: Path | None = None) -> Path:
    """Put a fit into the profile on disk, in place of an older one of the same model, engine and settings.

    Parameters
    ----------
    stamp : as `profile.watched` gives it; its data goes beside the fit
    """
    try:
        before = Profile.load(path).sections.get(SECTION)
    except NotMeasured:
        before = None
    entries = dict(before.data.get("fits", {})) if before else {}
    entries[_key(fitted)] = {**asdict(stamp), "data": {**dict(stamp.data), "fit": fitted.to_json()}}
    section = Section({"fits": entries}, stamp.date, stamp.seconds, stamp.steal, stamp.others)
    return profiles.update(SECTION, section, path)


def find(
    profile: Profile, model: str, engine: str = "trimtab", *, settings: Mapping[str, Any] | None = None,
    max_age_s: float = 30 * DAY_S, allow_noisy: bool = False,
) -> RequestModel:  # fmt: skip
    """The newest fit of a model on an engine.

    Parameters
    ----------
    model : identity as `model_identity` gives it, or the part of it before `#`
    settings : those that the fit must have been measured with

    Raises
    ------
    NotMeasured : there is none, or it is stale or was taken on a busy machine
    """
    section = profile.sections.get(SECTION)
    hint = f"measure it: `trimtab measure llm --model {model.partition('#')[0]} --engine {engine}`"
    found: list[tuple[Section, RequestModel]] = []
    wanted, others = dict(settings or {}), False
    for told in (section.data.get("fits", {}) if section else {}).values():
        try:
            stamp, fitted = Section(**told), RequestModel.from_json(told["data"]["fit"])
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise NotMeasured(f"the profile's section `{SECTION}` cannot be read: {error!r}", hint) from error
        same = model in (fitted.model, fitted.model.partition("#")[0]) and fitted.engine == engine
        if same and all(fitted.settings.get(key) == value for key, value in wanted.items()):
            found.append((stamp, fitted))
        others |= same
    if not found and others:
        told = ", ".join(f"{key} {value}" for key, value in wanted.items())
        raise NotMeasured(
            f"requests of {model.partition('#')[0]} on {engine} were timed here, but not with {told}", hint
        )
    if not found:
        raise NotMeasured(f"requests of {model.partition('#')[0]} on {engine} were never timed here", hint)
    stamp, fitted = max(found, key=lambda pair: pair[0].date)
    try:
        Profile(profile.machine, {SECTION: stamp}).need(SECTION, max_age_s=max_age_s, allow_noisy=allow_noisy)
    except NotMeasured as error:
        raise NotMeasured(error.message, hint) from error
    return fitted


def expected_request_seconds(
    profile: Profile, model: str, prompt: int, output: int, *, engine: str = "trimtab", batch: int = 1,
    allow_noisy: bool = False,
) -> float:  # fmt: skip
    """Seconds from submission to the last token, for `batch` equal requests together.

    Raises
    ------
    NotMeasured : no fit of this model and engine, or none with so many requests together
    """
    fitted = find(profile, model, engine, allow_noisy=allow_noisy)
    return fitted.predict(prompt, output, batch).total_s


def _key(fitted: RequestModel) -> str:
    return json.dumps([fitted.engine, fitted.model, sorted(fitted.settings.items())], default=str)
