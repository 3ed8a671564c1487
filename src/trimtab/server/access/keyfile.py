"""The file of API keys: what it holds, how it is read, and how it is changed without ever being half written.

A key is `tt-`, eight hexadecimal digits that name it, and 256 random bits. The file keeps its SHA-256 only. A
slow password hash would protect nothing more: it is there to make guesses expensive, and nobody guesses 256
random bits; it would only let strangers keep the server busy with wrong keys.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimtab.errors import BadFile, UnknownName, UsageError

PREFIX = "tt-"
_ID_DIGITS = 8
_SECRET_BYTES = 32
_LENGTH = len(PREFIX) + _ID_DIGITS + 1 + 43  # 32 bytes are 43 letters of URL-safe base 64

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Count = Annotated[int, Field(ge=1, le=10**12)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KeyRecord(_Record):
    """One key: its public half and the hash of the whole. Times are seconds since 1970."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: int
    expires: int | None = None


class TenantRecord(_Record):
    """One tenant: what it may take, and the keys that prove it."""

    name: Name
    salt: Annotated[str, Field(min_length=16)]
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    admin: bool = False
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    max_concurrent: Count | None = None
    models: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    keys: tuple[KeyRecord, ...] = ()


class KeyFile(_Record):
    """All of it."""

    version: Literal[1] = 1
    tenants: tuple[TenantRecord, ...] = ()

    def tenant(self, name: str) -> TenantRecord:
        """One by its name.

        Raises
        ------
        UnknownName : there is none
        """
        for tenant in self.tenants:
            if tenant.name == name:
                return tenant
        import difflib

        near = difflib.get_close_matches(name, [tenant.name for tenant in self.tenants], n=1)
        hint = f"did you mean `{near[0]}`?" if near else "`trimtab keys list` shows who has one"
        raise UnknownName(f"nobody called `{name}` has a key", hint, "name")

    def replaced(self, changed: TenantRecord) -> KeyFile:
        """The same with one tenant changed, or added at the end."""
        known = any(tenant.name == changed.name for tenant in self.tenants)
        tenants = [changed if tenant.name == changed.name else tenant for tenant in self.tenants]
        return KeyFile(tenants=tuple(tenants) if known else (*tenants, changed))


def read(path: Path) -> KeyFile | None:
    """The file's content, None when there is no file.

    Raises
    ------
    BadFile : others may write it, or it is no such file
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(path, f"cannot be read: {error}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadFile(path, "others may change these keys", hint=f"chmod 600 {path}")
    try:
        return KeyFile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise BadFile(path, f"not a file of keys: {place}: {first['msg']}") from error


def change(path: Path, edit: Callable[[KeyFile], KeyFile]) -> KeyFile:
    """Read, edit and write the file; two at once wait for each other, and a reader sees the old or the new.

    Raises
    ------
    UsageError : the folder cannot be written
    BadFile : see `read`
    """
    path = path.resolve()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.parent):
            new = edit(read(path) or KeyFile())
            _write(path, new)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", param="keys_file") from error
    return new


def new_key(now: int, expires: int | None) -> tuple[str, KeyRecord]:
    """A key, which nobody can read again afterwards, and what is kept of it."""
    name = secrets.token_hex(_ID_DIGITS // 2)
    key = f"{PREFIX}{name}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    return key, KeyRecord(id=name, sha256=hash_of(key), created=now, expires=expires)


def new_salt() -> str:
    """Something nobody else has."""
    return secrets.token_hex(16)


def hash_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def id_of(key: str) -> str | None:
    """The public half of a key, None when it has not the form of one."""
    end = len(PREFIX) + _ID_DIGITS
    if len(key) != _LENGTH or not key.startswith(PREFIX) or key[end] != "-":
        return None
    return key[len(PREFIX) : end]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone in a folder, by a lock on the folder itself: nothing is left behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, content: KeyFile) -> None:
    data: dict[str, Any] = content.model_dump(mode="json", exclude_defaults=True) | {"version": 1}
    whole = json.dumps(data, indent=2).encode() + b"\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(whole)
            file.flush()
            _keep_owner(path, file.fileno())
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep_owner(path: Path, descriptor: int) -> None:
    """Root, who may make keys for a service, leaves the file to the service's user."""
    if os.geteuid() != 0:
        return
    owner = os.stat(path if path.exists() else path.parent)
    os.fchown(descriptor, owner.st_uid, owner.st_gid)
