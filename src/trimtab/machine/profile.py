"""The machine profile: one file with everything that was measured about this machine.

A profile is made of sections, each measured by its own module and stamped with when and how calmly that
happened. Whoever reads a section says how old it may be; a stale or noisy one is refused, never used in
silence. This module knows the file and the stamps, and nothing of what a section holds.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.errors import BadFile, NotMeasured
from trimtab.machine import quiet
from trimtab.machine.probe import describe

SCHEMA = "hwprofile/1"
DAY_S = 86_400.0
MOST_STEAL, MOST_OTHERS = 0.05, 0.25
_LONGEST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Section:
    """One measured part of a profile.

    Parameters
    ----------
    data : what was measured, plain JSON; names carry their units
    date : when it ended, ISO 8601 in UTC
    seconds : how long it took
    steal, others : shares of the processor time that the hypervisor and other processes took meanwhile
    basis : `measured` here; `recorded` on another machine, `spec` from a data sheet
    """

    data: Mapping[str, Any]
    date: str
    seconds: float = 0.0
    steal: float = 0.0
    others: float = 0.0
    basis: str = "measured"

    @property
    def age_s(self) -> float:
        return (datetime.now(UTC) - datetime.fromisoformat(self.date)).total_seconds()

    @property
    def noisy(self) -> bool:
        return self.steal > MOST_STEAL or self.others > MOST_OTHERS


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything measured about one machine; immutable, `with_section` makes the next one."""

    machine: Mapping[str, Any]
    sections: Mapping[str, Section] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Profile:
        return cls(asdict(describe()))

    @classmethod
    def load(cls, path: Path | None = None) -> Profile:
        """Read a profile.

        Parameters
        ----------
        path : default: `default_path`

        Raises
        ------
        NotMeasured : there is none, or it is another machine's
        BadFile : it cannot be read, or is no profile
        """
        place = path or default_path()
        if not place.exists():
            raise NotMeasured(f"this machine has no profile ({place})", "make one: `trimtab measure --quick`")
        profile = cls.from_json(place)
        here = describe()
        if path is None and profile.machine.get("processor") != here.processor:
            raise NotMeasured(
                f"{place} is the profile of another machine: {profile.machine.get('processor')}",
                "measure this one: `trimtab measure --quick`",
            )
        return profile

    @classmethod
    def from_json(cls, path: Path) -> Profile:
        try:
            if path.stat().st_size > _LONGEST_BYTES:
                raise BadFile(path, "too large for a profile")
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise BadFile(path, f"its schema is {content['schema']!r}; this version reads {SCHEMA!r}")
            sections = {str(name): Section(**each) for name, each in content["sections"].items()}
            for each in sections.values():
                datetime.fromisoformat(each.date)
            return cls(dict(content["machine"]), sections)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadFile(
                path, f"no readable profile: {error}", hint="`trimtab measure` writes it anew"
            ) from error

    def need(
        self, name: str, *, max_age_s: float = 30 * DAY_S, allow_noisy: bool = False
    ) -> Mapping[str, Any]:
        """A section's data.

        Raises
        ------
        NotMeasured : it is missing, older than `max_age_s`, or was taken on a busy machine
        """
        section, hint = self.sections.get(name), f"measure it: `trimtab measure {name}`"
        if section is None:
            raise NotMeasured(f"the profile has no section `{name}`", hint)
        if section.basis == "measured" and section.age_s > max_age_s:
            raise NotMeasured(
                f"`{name}` was measured {section.age_s / DAY_S:.1f} days ago, too long for this", hint
            )
        if section.noisy and not allow_noisy:
            raise NotMeasured(
                f"`{name}` was measured on a busy machine: {section.others:.0%} other work, "
                f"{section.steal:.0%} stolen",
                hint,
            )
        return section.data

    def with_section(self, name: str, section: Section) -> Profile:
        return replace(self, sections={**self.sections, name: section})

    def save(self, path: Path | None = None) -> Path:
        """Write it in one piece: a reader sees the old profile or the new one."""
        place = path or default_path()
        place.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, ensure_ascii=False, allow_nan=False)
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=".profile.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text + "\n")
            os.chmod(temporary, 0o644)
            os.replace(temporary, place)
        except BaseException:
            os.unlink(temporary)
            raise
        return place


def default_path() -> Path:
    """`TRIMTAB_PROFILE`, or `profile.json` in trimtab's cache."""
    if set_by_user := os.environ.get("TRIMTAB_PROFILE"):
        return Path(set_by_user)
    if cache := os.environ.get("TRIMTAB_CACHE"):
        return Path(cache) / "profile.json"
    from platformdirs import user_cache_path

    return user_cache_path("trimtab", appauthor=False) / "profile.json"


def update(name: str, section: Section, path: Path | None = None) -> Path:
    """Put one section into the profile on disk, which is begun when there is none for this machine."""
    try:
        profile = Profile.load(path)
    except NotMeasured:
        profile = Profile.empty()
    return profile.with_section(name, section).save(path)


class Watch:
    """What goes on beside a measurement; `section` stamps its result. Made by `watched`."""

    def __init__(self) -> None:
        import time

        self._clock = time.monotonic
        self._began, self._ticks, self._own = self._clock(), quiet.ticks(), os.times()

    def section(self, data: Mapping[str, Any], basis: str = "measured") -> Section:
        """The section of `data`, stamped with now and with the disturbance since the watch began."""
        seconds, own, seen = (
            self._clock() - self._began,
            os.times(),
            quiet.between(self._ticks, quiet.ticks()),
        )
        steal = others = 0.0
        if seen is not None:
            used = sum(own[:4]) - sum(self._own[:4])  # ours, and that of children that have ended
            steal = seen.steal
            others = max(0.0, seen.busy - used / max(seconds, 1e-3) / describe().usable)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return Section(dict(data), date, seconds, steal, others, basis)


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch the machine while something is measured."""
    yield Watch()
