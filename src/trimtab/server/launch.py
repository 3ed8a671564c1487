"""Starts the server as fast as it can answer, and ends it without losing a request.

The socket listens first, so a taken port is known at once and early clients wait instead of failing. Then the
model loads in one thread while the main thread imports the web framework; most of a load is native code that
lets Python run. SIGTERM or Ctrl-C refuses new requests and lets running ones finish; a second one ends them.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trimtab.errors import UsageError
from trimtab.server.notify import notify
from trimtab.server.served import Loading, Served
from trimtab.server.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from trimtab.server.operations import Operations

_LISTEN_BACKLOG = 128
_JOIN_S = 5.0
_OTHER_FILES = 256


def serve(
    settings: ServeSettings,
    load: Callable[[ServeSettings, Callable[[], None]], Served],
    announce: Callable[[Served, str], None] = lambda served, url: None,
    *,
    create: Callable[[Loading, ServeSettings, Operations], FastAPI] | None = None,
) -> int:
    """Serve until told to stop.

    Parameters
    ----------
    load : opens the model, in a thread of its own; calls its second argument when only weights are left
    announce : called with the model and the server's address once requests are answered
    create : makes the HTTP application; default: the OpenAI-compatible one

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
    operations = _guarded(settings, listeners)
    _allow_files(settings.max_connections)
    loading = Loading()
    loader = threading.Thread(target=_load, args=(loading, load, settings), name="load", daemon=True)
    if settings.memory_bytes is None:
        loader.start()
        # A vocabulary's words come and go, modules stay: imported between them, they would leave the words'
        # memory in pieces that nothing can use. Packing the weights takes no Python and goes on meanwhile.
        loading.wait_for_words()

    make = create
    if make is None:
        from trimtab.server.app import create_app

        make = create_app
    from trimtab.server.process import DrainingServer, server_config
    from trimtab.server.watching import logs

    if settings.memory_bytes is not None:
        # A promise counts what the process already holds: then nothing large may be imported afterwards.
        loader.start()
    logs.configure(settings)
    prompts = (lambda: loading.result().tokenizer) if settings.log_prompts else None
    operations.listeners.append(logs.AccessLog(prompts))
    traces = None
    if settings.otlp_endpoint is not None:
        from trimtab.server.watching.traces import exporter

        traces = exporter(settings.otlp_endpoint)
        operations.listeners.append(traces)
    app = make(loading, settings, operations)
    server = DrainingServer(server_config(app, settings))
    if create is None:
        # The first chat would import the template engine; here it happens while weights are being packed.
        import trimtab.models.chat  # noqa: F401

    loading.on_failure(server.stop)
    scheme = "http" if settings.tls_cert is None else "https"
    address = address_of(listeners[0], scheme)
    loading.on_success(lambda served: _settled(served, announce, address))
    server.run(listeners)
    if traces is not None:
        traces.close()
    app.state.kept.close()
    loader.join(_JOIN_S)
    if not loader.is_alive():
        loading.result().close()
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


def address_of(listener: socket.socket, scheme: str = "http") -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return (
        f"{scheme}://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"
    )


def _guarded(settings: ServeSettings, listeners: list[socket.socket]) -> Operations:
    """Who may ask, known before anybody can.

    Raises
    ------
    UsageError : everybody in the network could, and nobody has said that they may
    BadFile : the keys cannot be used
    """
    from trimtab.server.operations import Operations

    try:
        operations = Operations.of(settings)
        _checked_extras(settings)
        if operations.keys.required or settings.insecure_open:
            return operations
        for listener in listeners:
            address = listener.getsockname()[0]
            if address != "::1" and not address.startswith("127."):
                raise UsageError(
                    f"without a key, everybody who can reach {settings.host} could use this server",
                    "make a key with `trimtab keys create NAME`, or say --insecure-open",
                    "host",
                )
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return operations


def _allow_files(connections: int) -> None:
    """As many open files as the connections need, where the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _checked_extras(settings: ServeSettings) -> None:
    """What is wrong with a certificate or with traces is known before a model is loaded."""
    if settings.tls_cert or settings.tls_key or settings.tls_client_ca:
        from trimtab.server.access.tls import Certificate

        Certificate.of(settings)
    if settings.otlp_endpoint is not None:
        from importlib.util import find_spec

        try:
            there = find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http")
        except ModuleNotFoundError:
            there = None
        if there is None:
            hint = "install them with `pip install 'trimtab[otel]'`"
            raise UsageError("traces need more packages", hint, "otlp_endpoint")


def _load(
    loading: Loading, load: Callable[[ServeSettings, Callable[[], None]], Served], settings: ServeSettings
) -> None:
    try:
        loading.finish(load(settings, loading.words_read))
    except BaseException as error:
        loading.fail(error)


def _settled(served: Served, announce: Callable[[Served, str], None], address: str) -> None:
    """Start-up is over: what exists now stays, so the collector need never look at it again."""
    gc.freeze()
    gc.enable()
    notify("READY=1")
    announce(served, address)
