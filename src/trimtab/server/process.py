"""How uvicorn runs here: its settings, and signals that drain instead of kill."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from uvicorn.config import Config
from uvicorn.server import Server

if TYPE_CHECKING:
    from fastapi import FastAPI

    from trimtab.server.settings import ServeSettings

BACKLOG = 2048  # connections the system holds while the server is busy
KEEP_ALIVE_S = 75  # longer than the idle limit of common reverse proxies


class DrainingServer(Server):
    """Finishes what runs on the first SIGTERM or SIGINT and stops on the second.

    uvicorn would raise the signal again once it has drained; a server that ended in order has not failed.
    """

    ended_by: int = 0
    tell: Callable[[], None] = staticmethod(lambda: None)  # called when it is to end: streams without an end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.tell()
        self.force_exit = self.should_exit
        self.should_exit = True
        self.ended_by = self.ended_by or sig

    def stop(self) -> None:
        """End it from within, as a signal would."""
        self.handle_exit(signal.SIGTERM, None)


def server_config(app: FastAPI, settings: ServeSettings) -> Config:
    """Everything named, so that uvicorn neither looks for packages nor imports what is not used."""
    return Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=settings.log_level in ("info", "debug"),
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
