"""Settings in a TOML file: read with every key checked, and written with the source of every value.

Knows any class of settings and no particular one, and nothing of flags.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from trimtab.errors import BadFile, UsageError
from trimtab.server.settings import fields_of, group_of, key_of

HIDDEN = "********"


def read_config(path: Path, kind: type[BaseModel]) -> dict[str, Any]:
    """The values of a file, by field of `kind`.

    Raises
    ------
    UsageError : it cannot be read, or has a key that is no setting; names the nearest one
    BadFile : it is not TOML
    """
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", param="config") from error
    except UnicodeDecodeError as error:
        raise BadFile(path, "not TOML: it is not UTF-8", error.start) from error
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadFile(path, f"not TOML: {error}") from error
    fields = {key_of(name): name for name in kind.model_fields}
    for key, value in given.items():
        if key not in fields:
            near = difflib.get_close_matches(key.replace("-", "_"), fields, n=1)
            hint = f"did you mean `{near[0]}`?" if near else "`trimtab serve --print-config` lists the keys"
            raise UsageError(f"{path}: no setting `{key}`", hint, "config")
        if isinstance(value, dict):
            raise UsageError(f"{path}: `{key}` is a table; settings stand at the top of the file")
    return {fields[key]: value for key, value in given.items()}


def write_config(settings: BaseModel, sources: Mapping[str, str]) -> str:
    """The settings as a file that `read_config` reads back; secrets are named and left out.

    Parameters
    ----------
    sources : where a field's value comes from, unless it is the default
    """
    kind = type(settings)
    lines: list[str] = []
    group = ""
    for name, field in fields_of(kind).items():
        if (here := group_of(kind, name)) != group:
            group = here
            lines += [""] * bool(lines) + [f"# {group}"]
        value = getattr(settings, name)
        source = sources.get(name, "default")
        if value is None:
            line = f"# {key_of(name)} is not set: {field.description}"
        elif isinstance(value, SecretStr):
            line = f"# {key_of(name)} is set to {HIDDEN} by {source}"
        else:
            line = f"{key_of(name)} = {_toml(value)}"
            line = line if source == "default" else f"{line:<40}  # {source}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # A JSON string is a TOML string, but for one control character that JSON leaves as it is.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
