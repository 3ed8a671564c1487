"""What decides the bytes of a KV page beside its tokens, as one value: model, number types, kernels, build.

Two engines with one identity compute the same pages, bit by bit. The model counts by content, not by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

_MOST_KNOWN = 64


def identity(model: Path, config: Any, *, memo: Path, **settings: Any) -> bytes:
    """The identity of an engine's pages.

    Parameters
    ----------
    model : file or folder
    memo : where digests of files are kept, so that an unchanged model is read once and not at every start
    settings : everything else that the arithmetic depends on
    """
    from trimtab import __version__, _native

    parts = {
        "version": __version__,
        "native": _digest(Path(_native.__file__)),
        "model": content_digest(model, memo),
        "config": repr(config),
        **{name: str(value) for name, value in settings.items()},
    }
    return json.dumps(parts, sort_keys=True).encode()


def content_digest(model: Path, memo: Path) -> str:
    """SHA-256 of a model's weights and configuration, in hex."""
    files = [model]
    if model.is_dir():
        files = sorted((*model.glob("*.safetensors"), *model.glob("*.json")))
    known = _known(memo)
    digest, current = hashlib.sha256(), {}
    for file in files:
        status = file.stat()
        # The time of the last change of status cannot be set back as that of the content can.
        key = f"{file.resolve()} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        current[key] = known.get(key) or _digest(file)
        digest.update(f"{file.name} {current[key]}\n".encode() if model.is_dir() else current[key].encode())
    if any(key not in known for key in current):
        _remember(memo, {**current, **known})
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known(memo: Path) -> dict[str, str]:
    try:
        found = json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str) and len(value) == 64}


def _remember(memo: Path, known: dict[str, str]) -> None:
    content = json.dumps(dict(list(known.items())[:_MOST_KNOWN]), indent=1)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=memo.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(temporary, memo)
    except OSError:  # then it is read again next time
        return
