"""One connection: bounds on how slow its client may be, and on how many there are.

uvicorn's protocol with clocks: for a request's head, for its body, and for an answer that nobody reads. When
there are too many connections, the one that has gone longest without a request makes room; one that is being
answered never does. Nothing here knows what a request says.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

BODY_BYTES_PER_S = 1024
"""Slower than this a body does not come, unless its client wants to keep the connection busy."""
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(slots=True, eq=False)
class ConnectionLimits:
    """Of all connections of one server together.

    Parameters
    ----------
    idle : those without a request under way, longest so first
    """

    max_connections: int = 1024
    header_seconds: float = 20.0
    body_seconds: float = 30.0
    stall_seconds: float = 60.0
    idle: dict[Connection, None] = field(default_factory=dict)


class Connection(H11Protocol):
    """One client. `config.limits` are the server's ConnectionLimits."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.limits: ConnectionLimits = self.config.limits  # type: ignore[attr-defined]
        self._heard = False
        self._head = _Timer(self.loop, self._head_too_slow)
        self._body = _Timer(self.loop, self._body_too_slow)
        self._stall = _Timer(self.loop, self._not_read)
        self._body_began = 0.0
        self._body_bytes = 0

    # --- what uvicorn and the transport call ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits = self.limits
        if len(self.connections) > limits.max_connections:
            oldest = next(iter(limits.idle), None)
            if oldest is None:
                self._refuse(503, f"all {limits.max_connections} connections of this server are in use")
                return
            oldest.leave()
        limits.idle[self] = None
        self._head.start(limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._body_bytes += len(data)
        if not self._body.running and (self.cycle is None or self._answered):
            self._head.start(self.limits.header_seconds)
        super().data_received(data)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        cycle = self.cycle
        if cycle is not before:
            self._head.stop()
            self.limits.idle.pop(self, None)
            self._body_began, self._body_bytes = self.loop.time(), 0
        if cycle is not None and cycle.more_body:
            if not self.transport.is_closing():
                self._body.start(self.limits.body_seconds)
        else:
            self._body.stop()

    def on_response_complete(self) -> None:
        before = self.cycle
        super().on_response_complete()
        if self.cycle is before and not self.transport.is_closing():
            self.limits.idle[self] = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.start(self.limits.stall_seconds)

    def resume_writing(self) -> None:
        self._stall.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not HTTP/1.1")

    # --- endings --------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Make room for others."""
        self._forget()
        self.transport.close()

    @property
    def _answered(self) -> bool:
        return bool(self.cycle.response_complete)

    def _head_too_slow(self) -> None:
        if self._heard:
            self._refuse(408, f"no request came within {self.limits.header_seconds:g} s")
        else:
            self.leave()

    def _body_too_slow(self) -> None:
        allowed = self.limits.body_seconds + self._body_bytes / BODY_BYTES_PER_S
        left = self._body_began + allowed - self.loop.time()
        # A client that may not send, because nobody reads, is not slow.
        if left > 0 or self.flow.read_paused:
            self._body.start(left if left > 0 else self.limits.body_seconds)
        elif self.cycle.response_started:
            self.leave()
        else:
            self._refuse(408, "the body came too slowly")

    def _not_read(self) -> None:
        # Without a linger the kernel would go on offering what nobody takes, and keep its memory.
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Answer without a request and close."""
        self._forget()
        if self.transport.is_closing():
            return
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()
        headers = [
            ("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close"),
        ]  # fmt: skip
        if status == 503:
            headers.append(("retry-after", "1"))
        try:
            for event in (
                h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage(),
            ):  # fmt: skip
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer was under way: the end of the connection must say it
            pass
        self.transport.close()

    def _forget(self) -> None:
        self.limits.idle.pop(self, None)
        self._head.stop()
        self._body.stop()
        self._stall.stop()


class _Timer:
    """Calls something once, unless it is stopped before; started again it goes on as it was."""

    __slots__ = ("_call", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._handle: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        return self._handle is not None

    def start(self, seconds: float) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(seconds, self._fire)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        self._call()
