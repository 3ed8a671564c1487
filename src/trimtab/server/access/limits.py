"""Refuses request bodies beyond a limit, before they are read or while they arrive.

An ASGI layer around the application: it sees bytes and lengths, never a request's meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from trimtab.server.errors import error_answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


UPLOADS = "/v1/files"
FRAME_BYTES = 64 << 10
"""What a body with a file may have besides the file."""


class BodyLimit:
    """Answers 413 to a body of more than `max_body_bytes`; a file may be larger, and goes to the disk.

    A declared length is refused at once. A body without one is counted as it arrives, so that a sender who
    streams for ever costs at most the limit.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, max_file_bytes: int = 0) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.max_file_bytes = max_file_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self.max_body_bytes
        if scope["path"] == UPLOADS:
            most = max(most, self.max_file_bytes + FRAME_BYTES)
        reason = f"the body is larger than {most / 2**20:.3g} MiB, the limit of this server"
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(declared) > most:
            # The rest of the body is not read, so the connection cannot be used again.
            await error_answer(413, reason, headers={"Connection": "close"})(scope, receive, send)
            return

        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(413, reason, {"Connection": "close"})
            return message

        await self.app(scope, counted_receive, send)
