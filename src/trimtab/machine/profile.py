"""The machine profile: one file with everything that was measured about this machine.

A profile is made of sections, each measured by its own module and stamped with when and how calmly that
happened. Whoever reads a section says how old it may be; a stale or noisy one is refused, never used in
silence. This module knows the file and the stamps, and nothing of what a section holds.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.errors import BadFile, NotMeasured
from trimtab.machine import quiet
from trimtab.machine.probe import describe, family

SCHEMA = "hwprofile/1"
DAY_S = 86_400.0
MOST_STEAL, MOST_OTHERS = 0.05, 0.25
BASES = ("measured", "recorded", "spec")
_LONGEST_BYTES = 64 * 2**20
_MAX_AHEAD_S = 3600.0  # clocks differ a little; a date further ahead is none


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

    def problem(self, max_age_s: float, *, allow_noisy: bool = False) -> str:
        """Why this may not be used, to be read after the section's name; empty when it may."""
        if self.basis == "measured" and self.age_s > max_age_s:
            age, most = _span(self.age_s), _span(max_age_s)
            return f"was measured {age} ago, and what needs it takes nothing older than {most}"
        if self.age_s < -_MAX_AHEAD_S:
            return f"was measured in the future ({self.date}): a clock was, or is, wrong"
        if self.noisy and not allow_noisy:
            return (
                f"was measured on a busy machine: other work took {self.others:.0%} of the processors and "
                f"the hypervisor {self.steal:.0%}; at most {MOST_OTHERS:.0%} and {MOST_STEAL:.0%} will do"
            )
        return ""


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
            sections = {str(name): _section(each) for name, each in content["sections"].items()}
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
        section = self.sections.get(name)
        if section is None:
            there = ", ".join(self.sections) or "nothing yet"
            raise NotMeasured(f"the profile has no section `{name}`; it has {there}", _how(name))
        if problem := section.problem(max_age_s, allow_noisy=allow_noisy):
            raise NotMeasured(f"`{name}` {problem}", _how(name))
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


def _span(seconds: float) -> str:
    """A length of time for people, to the unit that says enough: `3.0 days`, `5 hours`, `40 minutes`."""
    if seconds >= 2 * DAY_S:
        return f"{seconds / DAY_S:.1f} days"
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.0f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _how(name: str) -> str:
    from trimtab.machine.sections import SECTIONS

    command = f"trimtab measure --only {name}" if name in SECTIONS else f"trimtab measure {name}"
    return f"measure it on a quiet machine: `{command}`"


def _section(content: Mapping[str, Any]) -> Section:
    """A section out of a file; ValueError or TypeError when it is none."""
    section = Section(**content)
    if datetime.fromisoformat(section.date).tzinfo is None:
        raise ValueError(f"the date {section.date!r} names no time zone")
    if not isinstance(section.data, dict) or section.basis not in BASES:
        raise ValueError("a section has data and a basis: " + ", ".join(BASES))
    for share in (section.seconds, section.steal, section.others):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1e12:
            raise ValueError(f"{share!r} is no share and no time")
    return section


def default_path() -> Path:
    """`TRIMTAB_PROFILE`, or `profile.json` in trimtab's cache."""
    if set_by_user := os.environ.get("TRIMTAB_PROFILE"):
        return Path(set_by_user)
    if cache := os.environ.get("TRIMTAB_CACHE"):
        return Path(cache) / "profile.json"
    from platformdirs import user_cache_path

    return user_cache_path("trimtab", appauthor=False) / "profile.json"


def update(name: str, section: Section, path: Path | None = None) -> Path:
    """Put one section into the profile on disk, which is begun when there is none for this machine.

    A file that cannot be read is put aside, under its name with `.damaged` behind it.
    """
    try:
        profile = Profile.load(path)
    except NotMeasured:
        profile = Profile.empty()
    except BadFile as error:
        os.replace(error.path, error.path.with_name(f"{error.path.name}.damaged"))
        profile = Profile.empty()
    return profile.with_section(name, section).save(path)


class Watch:
    """What goes on beside a measurement; `section` stamps its result. Made by `watched`.

    Work of this process and of all it started counts as the measurement's own, also while a child still runs.
    """

    def __init__(self) -> None:
        self._began, self._ticks, self._own = time.monotonic(), quiet.ticks(), own_seconds()

    def section(self, data: Mapping[str, Any], basis: str = "measured") -> Section:
        """The section of `data`, stamped with now and with the disturbance since the watch began."""
        now, own, seconds = quiet.ticks(), own_seconds(), time.monotonic() - self._began
        seen, steal, others = quiet.between(self._ticks, now), 0.0, 0.0
        if seen is not None and self._ticks is not None and now is not None:
            # Each processor's counters move in whole ticks, so one more or less is no one's work.
            whole_s = (now.total - self._ticks.total) / os.sysconf("SC_CLK_TCK")
            unsure_s = 2 * describe().usable / os.sysconf("SC_CLK_TCK")
            foreign_s = seen.busy * whole_s - max(0.0, own - self._own) - unsure_s
            steal, others = seen.steal, min(1.0, max(0.0, foreign_s / whole_s))
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return Section(dict(data), date, seconds, steal, others, basis)


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch the machine while something is measured."""
    yield Watch()


def own_seconds() -> float:
    """Processor time of this process, its ended children, and all that it started and that still runs."""
    total = sum(os.times()[:4])
    per_second = os.sysconf("SC_CLK_TCK")
    for process in family(os.getpid())[1:]:
        try:
            stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
            total += sum(map(int, stat.rsplit(")", 1)[1].split()[11:15])) / per_second
        except (OSError, IndexError, ValueError):  # it has just ended: its parent has its time now, or will
            continue
    return total
