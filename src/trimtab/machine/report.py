"""The record of a measurement, and its file.

Every figure the documentation shows is read from such a file, so it carries what is needed to judge and to
repeat it: machine, versions, command, seeds, raw samples, result. It knows nothing of what was measured.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.errors import BadFile

_LONGEST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Report:
    """One measurement.

    Parameters
    ----------
    name : what was measured; also the file's name
    claim : the sentence that the measurement tests
    machine : see `trimtab.machine.probe.describe`
    versions : of trimtab, Python and every competitor
    command : how to repeat it
    seeds : of everything drawn
    samples : raw values in the order they were taken, by contender
    result : the figures drawn from the samples
    date : when it ended, ISO 8601 in UTC
    """

    name: str
    claim: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    command: Sequence[str]
    seeds: Sequence[int]
    samples: Mapping[str, Sequence[Any]]
    result: Mapping[str, Any]
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def save(self, folder: Path) -> Path:
        """Write `folder/name.json` in one piece: a reader sees the old report or the new one."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{self.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.to_json(indent=1) + "\n")
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return path

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(asdict(self), indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read a report.

        Raises
        ------
        BadFile : it cannot be read, or is no report
        """
        try:
            if path.stat().st_size > _LONGEST_BYTES:
                raise BadFile(path, "too large for a report")
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BadFile(path, f"no readable report: {error}") from error
        names = {each.name for each in fields(cls)}
        if not isinstance(content, dict) or set(content) != names:
            got = set(content) if isinstance(content, dict) else set()
            wrong = ", ".join(sorted(names ^ got))
            raise BadFile(path, f"no report: missing or unknown fields {wrong}")
        return cls(**content)


def versions(**others: str) -> dict[str, str]:
    """Versions of trimtab and what runs it, with `others` added."""
    from trimtab import __version__

    return {"trimtab": __version__, "python": platform.python_version(), **others}


def command_line() -> list[str]:
    """How this process was started, without the folder of its program."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
