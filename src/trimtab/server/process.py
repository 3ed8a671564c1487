"""How uvicorn runs here: its settings, and signals that drain instead of kill."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.server import Server

from trimtab.server.access.connections import Connection, ConnectionLimits
from trimtab.server.notify import notify

if TYPE_CHECKING:
    from fastapi import FastAPI

    from trimtab.server.access.tls import Certificate
    from trimtab.server.lifecycle import Lifecycle
    from trimtab.server.settings import ServeSettings

BACKLOG = 2048  # connections the system holds while the server is busy
_LOOK_AT_CERTIFICATE_TICKS = 50  # of a tenth of a second


class DrainingServer(Server):
    """Refuses new requests after the first SIGTERM or SIGINT and ends when the last one is through.

    While it drains it still listens: who asks is told to come back, and `/ready` tells a load balancer to go
    elsewhere. A second signal ends it at once. uvicorn would raise the signal again once it has drained; a
    server that ended in order has not failed.

    Parameters
    ----------
    config : from `server_config`
    """

    ended_by: int = 0

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        app: Any = config.app
        self._lifecycle: Lifecycle = app.state.operations.lifecycle
        self._tell: Callable[[], None] = app.state.live.stop  # streams without an end
        self._drain_seconds = config.timeout_graceful_shutdown or 0
        self._deadline = 0.0
        self._certificate: Certificate | None = getattr(config, "certificate", None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._lifecycle.draining:
            self.force_exit = self.should_exit = True
            return
        self.ended_by = sig
        self._lifecycle.draining = True
        self._deadline = time.monotonic() + self._drain_seconds
        notify("STOPPING=1")
        self._tell()

    async def on_tick(self, counter: int) -> bool:
        if self._lifecycle.draining and not self.should_exit:
            left = self._deadline - time.monotonic()
            if self._lifecycle.active == 0 or left <= 0:
                # What is written but not yet read by its client still has the rest of the time.
                self.config.timeout_graceful_shutdown = max(1, math.ceil(left))
                self.should_exit = True
        if self._certificate is not None and counter % _LOOK_AT_CERTIFICATE_TICKS == 0:
            self._certificate.refresh()
        return await super().on_tick(counter)

    def stop(self) -> None:
        """End it from within, as a signal would."""
        self.handle_exit(signal.SIGTERM, None)


class ServerConfig(Config):
    """uvicorn's settings, and what it has no settings for.

    Parameters
    ----------
    limits : of the connections
    certificate : for HTTPS
    """

    def __init__(
        self, *arguments: Any, limits: ConnectionLimits, certificate: Certificate | None, **named: Any
    ):
        super().__init__(*arguments, **named)
        self.limits = limits
        self.certificate = certificate

    def load(self) -> None:
        super().load()
        if self.certificate is not None:
            self.ssl = self.certificate.context


def server_config(app: FastAPI, settings: ServeSettings) -> ServerConfig:
    """Everything named, so that uvicorn neither looks for packages nor imports what is not used.

    Raises
    ------
    UsageError : the certificate cannot be used
    """
    certificate = None
    if settings.tls_cert is not None or settings.tls_key is not None or settings.tls_client_ca is not None:
        from trimtab.server.access.tls import Certificate

        certificate = Certificate.of(settings)
    return ServerConfig(
        app,
        limits=ConnectionLimits(
            settings.max_connections, settings.header_seconds, settings.body_seconds, settings.stall_seconds
        ),
        certificate=certificate,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(settings.idle_seconds),
        timeout_graceful_shutdown=settings.drain_seconds,
    )
