"""Who may use the server: tenants, each known by its API keys, and what each of them may take.

Knows keys and limits, nothing of HTTP: `gate.py` asks here who is calling and puts the answer on the request.
The file is read again when it changes, so that a revoked key ends without a restart.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import BadFile

if TYPE_CHECKING:
    from trimtab.server.access.keyfile import KeyFile, TenantRecord

LOOK_EVERY_S = 1.0
"""How soon a change of the file is noticed."""

_log = logging.getLogger("trimtab.server")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tenant may take; None means no limit of its own.

    Parameters
    ----------
    tokens_per_minute : of prompts and outputs together
    max_concurrent : requests at a time
    models, adapters : names it may ask for; empty allows all
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    models: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tenant:
    """On whose behalf a request runs.

    Parameters
    ----------
    name : as `trimtab keys` lists it; empty for the only tenant of a server without keys
    salt : prompt prefixes are shared only under equal salts; stays when a key is rotated
    weight : its share of a busy engine, relative to others
    admin : may see metrics, and requests of other tenants
    """

    name: str
    salt: str
    limits: Limits = Limits()
    weight: float = 1.0
    admin: bool = False


ANONYMOUS = Tenant("", "", admin=True)
"""Everybody, on a server without keys."""


def default_path() -> Path:
    """Where keys are kept when nobody says."""
    from platformdirs import user_state_path

    return user_state_path("trimtab", appauthor=False) / "keys.json"


class WrongKey(Exception):
    """A key that opens nothing; the message says why, without the key."""


class Keys:
    """The keys of one server, out of a file and at most one that was set by hand.

    Once there have been keys there is no way back to a server without: a file that is emptied, spoiled or
    removed does not open the door.

    Parameters
    ----------
    path : of the file, there or not yet
    own : the key that was set by hand
    clock, wall : seconds that never go back, and seconds since 1970

    Raises
    ------
    BadFile : the file is there and cannot be used
    """

    def __init__(
        self,
        path: Path,
        own: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._clock = clock
        self._wall = wall
        self._own = None if own is None else own.encode()
        self._stamp: tuple[int, int, int] | None = None
        self._looked = clock()
        self._tenants: dict[str, Tenant] = {}
        # id of a key -> its hash, when it ends, and whose it is
        self._keys: dict[str, tuple[str, int | None, Tenant]] = {}
        self._required = own is not None
        if (stamp := self._stat()) is not None:
            self._load(stamp)

    @property
    def required(self) -> bool:
        """Nobody gets in without one."""
        self._refresh()
        return self._required

    def find(self, key: str) -> Tenant:
        """Whose key this is.

        Raises
        ------
        WrongKey : it is nobody's, or its time is over
        """
        self._refresh()
        if self._own is not None and hmac.compare_digest(self._own, key.encode("utf-8", "surrogatepass")):
            return _OWNER
        from trimtab.server.access.keyfile import hash_of, id_of

        # Found by its public half, so that nothing that takes time depends on the secret one.
        sha256, expires, tenant = self._keys.get(id_of(key) or "", ("", None, ANONYMOUS))
        if not hmac.compare_digest(sha256, hash_of(key)):
            raise WrongKey("it is not a key of this server")
        if expires is not None and self._wall() >= expires:
            raise WrongKey("it has expired")
        return tenant

    def tenant(self, name: str) -> Tenant | None:
        """A tenant by its name, for work that goes on without a request; None when it has no key any more."""
        self._refresh()
        if not self._required:
            return ANONYMOUS
        return _OWNER if name == _OWNER.name and self._own is not None else self._tenants.get(name)

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        stamp = self._stat()
        if stamp is None or stamp == self._stamp:
            return
        try:
            self._load(stamp)
        except BadFile as error:
            self._stamp = stamp  # said once
            _log.error("the keys stay as they were: %s", error.message)

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _load(self, stamp: tuple[int, int, int]) -> None:
        from trimtab.server.access.keyfile import read

        content: KeyFile | None = read(self.path)
        if content is None:
            return
        tenants = {record.name: _tenant(record) for record in content.tenants}
        self._keys = {
            key.id: (key.sha256, key.expires, tenants[record.name])
            for record in content.tenants
            for key in record.keys
        }
        self._tenants = tenants
        self._required = True
        self._stamp = stamp


_OWNER = Tenant("api-key", "api-key", admin=True)
"""Whoever has the key that was set by hand."""


def _tenant(record: TenantRecord) -> Tenant:
    limits = Limits(
        record.requests_per_minute,
        record.tokens_per_minute,
        record.max_concurrent,
        record.models,
        record.adapters,
    )
    return Tenant(record.name, record.salt, limits, record.weight, record.admin)
