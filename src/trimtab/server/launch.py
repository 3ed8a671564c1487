"""Starts the server as fast as it can answer, and ends it without losing a request.

The socket listens first, so a taken port is known at once and early clients wait instead of failing. Then the
model loads in one thread while the main thread imports the web framework; most of a load is native code that
lets Python run. SIGTERM or Ctrl-C stops accepting and lets running requests finish; a second one ends them.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from trimtab.errors import UsageError
from trimtab.server.served import Loading, Served
from trimtab.server.settings import ServeSettings

_LISTEN_BACKLOG = 128
_JOIN_S = 5.0


def serve(
    settings: ServeSettings,
    load: Callable[[ServeSettings], Served],
    announce: Callable[[Served, str], None] = lambda served, url: None,
) -> int:
    """Serve until told to stop.

    Parameters
    ----------
    load : opens the model; runs in a thread of its own
    announce : called with the model and the server's address once requests are answered

    Returns
    -------
    the signal that ended it, such as `signal.SIGTERM`

    Raises
    ------
    TrimtabError : the address cannot be had, or the model cannot be loaded
    """
    # Importing makes many objects and no garbage: collecting meanwhile only costs time.
    gc.disable()
    # numpy's linear algebra, unused here, would start threads and buffers of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    listeners = listen(settings.host, settings.port)
    loading = Loading()
    loader = threading.Thread(target=_load, args=(loading, load, settings), name="load", daemon=True)
    if settings.memory_bytes is None:
        loader.start()

    from trimtab.server.app import create_app
    from trimtab.server.process import DrainingServer, server_config

    if settings.memory_bytes is not None:
        # A promise counts what the process already holds: then nothing large may be imported afterwards.
        loader.start()
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    app = create_app(loading, settings.max_body_bytes)
    server = DrainingServer(server_config(app, settings))
    server.tell = app.state.live.stop
    # The first chat would import the template engine; here it happens while weights are being packed.
    import trimtab.models.chat  # noqa: F401

    loading.on_failure(server.stop)
    loading.on_success(lambda served: _settled(served, announce, listeners[0]))
    server.run(listeners)
    loader.join(_JOIN_S)
    if not loader.is_alive():
        loading.result().engine.close()
    return server.ended_by


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of `host`; port 0 picks one free port for all.

    Raises
    ------
    UsageError : the name is unknown or the port is taken
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            made = socket.socket(family, kind, protocol)
            sockets.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen: tuple[Any, ...] = (address[0], port, *address[2:])
            made.bind(chosen)
            made.listen(_LISTEN_BACKLOG)
            port = made.getsockname()[1]
    except OSError as error:
        for made in sockets:
            made.close()
        reason = error.strerror or str(error)
        hint = "choose another port with --port, or --port 0 for any free one"
        raise UsageError(f"cannot listen on {host} port {port}: {reason}", hint, "port") from error
    return sockets


def address_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


def _load(loading: Loading, load: Callable[[ServeSettings], Served], settings: ServeSettings) -> None:
    try:
        loading.finish(load(settings))
    except BaseException as error:
        loading.fail(error)


def _settled(served: Served, announce: Callable[[Served, str], None], listener: socket.socket) -> None:
    """Start-up is over: what exists now stays, so the collector need never look at it again."""
    gc.freeze()
    gc.enable()
    announce(served, address_of(listener))
