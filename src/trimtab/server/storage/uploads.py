"""Multipart bodies as they arrive: one file straight to the disk, a few short fields to memory.

Nothing of the body is ever whole in memory. Knows the format and a folder; what the fields mean is decided in
`files.py`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096
MAX_NAME_BYTES = 512
PARTIAL = ".part"
"""How names of files end that are still being written."""


@dataclass(slots=True)
class Upload:
    """A received body.

    Parameters
    ----------
    path : of the file's bytes, which are on the disk and belong to the caller
    filename : as the sender calls it, without folders
    """

    path: Path
    filename: str = ""
    size: int = 0
    fields: dict[str, str] = field(default_factory=dict)


async def receive(request: Request, folder: Path, max_bytes: int) -> Upload:
    """Read a multipart body whose part `file` is a file.

    Parameters
    ----------
    folder : where the file's bytes go; the caller moves them or removes them

    Raises
    ------
    ApiError : the body is no such thing, or the file is too large; nothing stays on the disk
    """
    from python_multipart.exceptions import FormParserError  # late: few servers are ever sent a file
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise ApiError(400, "the body is not sent as multipart/form-data with a boundary")
    upload = Upload(folder / f"{secrets.token_hex(12)}{PARTIAL}")
    try:
        descriptor = os.open(upload.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            parts = _Parts(upload, max_bytes)
            try:
                parser = MultipartParser(boundary, parts.callbacks())
                async for chunk in request.stream():
                    parser.write(chunk)
                    if parts.waiting:
                        pieces, parts.waiting = parts.waiting, []
                        await asyncio.to_thread(file.writelines, pieces)
                parser.finalize()
            except FormParserError as error:
                raise ApiError(400, f"the multipart body is broken: {error}") from None
            if not parts.ended:
                raise ApiError(400, "the multipart body ends before its last boundary")
            if not parts.found:
                message = "Missing required parameter: 'file'."
                raise ApiError.invalid("file", message, "missing_required_parameter")
            await asyncio.to_thread(_synced, file)
    except BaseException as error:
        upload.path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ApiError(507, f"the server cannot keep this file: {error}") from error
        raise
    return upload


def _synced(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


class _Parts:
    """Takes what the parser finds: fields go to `upload`, bytes of the file to `waiting`."""

    def __init__(self, upload: Upload, max_bytes: int) -> None:
        self.upload = upload
        self.max_bytes = max_bytes
        self.waiting: list[bytes] = []
        self.found = False
        self.ended = False
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._field: bytearray | None = None
        self._name = ""

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add(self._header[0], data[start:end]),
            "on_header_value": lambda data, start, end: self._add(self._header[1], data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._start,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._last,
        }

    def _begin(self) -> None:
        self._disposition = b""
        self._header = (bytearray(), bytearray())

    def _add(self, to: bytearray, piece: bytes) -> None:
        to += piece
        if len(to) > MAX_FIELD_BYTES:
            raise ApiError(400, "a header of the multipart body is too long")

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _start(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == "file" and b"filename" in options:
            if self.found:
                raise ApiError.invalid("file", "Invalid 'file': one file at a time.")
            self.found, self._field = True, None
            name = options[b"filename"][:MAX_NAME_BYTES].decode("utf-8", "replace")
            self.upload.filename = name.replace("\\", "/").rpartition("/")[2] or "file"
            return
        if len(self.upload.fields) >= MAX_FIELDS:
            raise ApiError(400, f"the multipart body has more than {MAX_FIELDS} fields")
        self._field = bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field is not None:
            self._add(self._field, data[start:end])
            return
        self.upload.size += end - start
        if self.upload.size > self.max_bytes:
            limit = f"{self.max_bytes / 2**20:.3g} MiB"
            raise ApiError(
                413, f"Invalid 'file': it is larger than {limit}, the limit of this server.", "file"
            )
        self.waiting.append(data[start:end])

    def _end(self) -> None:
        if self._field is not None:
            self.upload.fields[self._name] = self._field.decode("utf-8", "replace")
            self._field = None

    def _last(self) -> None:
        self.ended = True
