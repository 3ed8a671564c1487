"""/v1/files: what clients upload for batches, and what batches make. Everybody sees their own only."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi.responses import FileResponse, Response
from pydantic import Field
from typing_extensions import TypedDict

from trimtab.server.api.queries import listed, text_query, whole_query
from trimtab.server.api.schemas import Wire
from trimtab.server.call import call_of
from trimtab.server.endpoints import LONG_LISTS
from trimtab.server.errors import ApiError
from trimtab.server.storage.state import state_of
from trimtab.server.storage.store import page

if TYPE_CHECKING:
    import sqlite3

    from fastapi import Request

    from trimtab.server.served import Served
    from trimtab.server.storage.store import Store

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
EXPIRY_S = (3600, 2_592_000)  # OpenAI's: an hour to thirty days


class FileUpload(Wire):
    """The parts of a multipart body. Not validated by this type: it only describes them."""

    file: Annotated[str, Field(json_schema_extra={"format": "binary"})]
    purpose: Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]


class FileObject(TypedDict):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FileList(TypedDict):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(TypedDict):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


async def upload(request: Request, served: Served) -> Response:
    """Keep a file."""
    from trimtab.server.storage.uploads import receive

    state, owner = state_of(request), call_of(request).tenant.name
    received = await receive(request, state.store.contents, state.max_file_bytes)
    try:
        purpose = received.fields.get("purpose")
        if purpose is None:
            raise ApiError.invalid(
                "purpose", "Missing required parameter: 'purpose'.", "missing_required_parameter"
            )
        if purpose not in PURPOSES:
            allowed = ", ".join(f"'{one}'" for one in PURPOSES)
            message = f"Invalid value for 'purpose': {purpose[:80]!r}. Supported: {allowed}."
            raise ApiError.invalid("purpose", message)
        if purpose == "batch" and not received.filename.lower().endswith(".jsonl"):
            raise ApiError.invalid("file", "Invalid file format for the Batch API: it must be .jsonl.")
        expires_s = _expires_s(received.fields)

        def add(connection: sqlite3.Connection) -> FileObject:
            drop_expired(connection, state.store, int(time.time()))
            held = connection.execute("SELECT COALESCE(SUM(bytes), 0) FROM files").fetchone()[0]
            if held + received.size > state.max_stored_bytes:
                limit = f"{state.max_stored_bytes / 2**30:.3g} GiB"
                raise ApiError(413, f"this server keeps at most {limit} of files; delete some first", "file")
            return add_file(
                connection, state.store, received.path, owner, received.filename, purpose, expires_s=expires_s
            )

        kept = await state.store.run(add)
    except BaseException:
        received.path.unlink(missing_ok=True)
        raise
    return _json(kept)


async def list_files(request: Request, served: Served) -> Response:
    """The caller's files, newest first unless asked otherwise."""
    state, owner = state_of(request), call_of(request).tenant.name
    where: dict[str, Any] = {"owner": owner}
    purpose = text_query(request, "purpose")
    if purpose is not None:
        where["purpose"] = purpose
    most = LONG_LISTS["/v1/files"]
    after, limit = text_query(request, "after"), whole_query(request, "limit", most, 1, most)
    ascending = text_query(request, "order", ("asc", "desc")) == "asc"

    def read(connection: sqlite3.Connection) -> FileList:
        drop_expired(connection, state.store, int(time.time()))
        rows, more = page(connection, "files", where, after=after, limit=limit, ascending=ascending)
        found: FileList = listed([file_object(row) for row in rows], more)
        return found

    return _json(await state.store.run(read))


async def retrieve(request: Request, served: Served) -> Response:
    """What is known of one file."""
    return _json(await _own(request))


async def content(request: Request, served: Served) -> Response:
    """The bytes of one file."""
    found = await _own(request)
    path = state_of(request).store.contents / found["id"]
    if not path.is_file():
        raise ApiError(404, f"The content of {found['id']} is gone from the state folder.", "id")
    return FileResponse(path, media_type="application/octet-stream", filename=found["filename"])


async def delete(request: Request, served: Served) -> Response:
    """Forget one file; a batch that runs on it goes on."""
    found = await _own(request)
    store = state_of(request).store
    await store.run(lambda connection: remove_file(connection, store, found["id"]))
    answer: FileDeleted = {"id": found["id"], "object": "file", "deleted": True}
    return _json(answer)


def add_file(
    connection: sqlite3.Connection,
    store: Store,
    path: Path,
    owner: str,
    filename: str,
    purpose: str,
    *,
    file_id: str = "",
    expires_s: int | None = None,
) -> FileObject:
    """Make a file of what lies at `path`, whose bytes are on the disk already.

    Parameters
    ----------
    file_id : its name, where that must be the same again after a crash
    """
    file_id = file_id or f"file-{secrets.token_hex(12)}"
    now, size = int(time.time()), path.stat().st_size
    os.replace(path, store.contents / file_id)
    expires = None if expires_s is None else now + expires_s
    connection.execute(
        "INSERT INTO files (id, owner, filename, purpose, bytes, created_at, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (file_id, owner, filename, purpose, size, now, expires),
    )
    return file_object(connection.execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone())


def find_file(connection: sqlite3.Connection, file_id: str, owner: str) -> FileObject | None:
    """The file of this id, if it is this owner's and has not expired."""
    query = "SELECT * FROM files WHERE id = ? AND owner = ? AND COALESCE(expires_at, ?) >= ?"
    now = int(time.time())
    row = connection.execute(query, (file_id, owner, now, now)).fetchone()
    return None if row is None else file_object(row)


def remove_file(connection: sqlite3.Connection, store: Store, file_id: str) -> None:
    """Forget a file and its bytes."""
    connection.execute("DELETE FROM files WHERE id = ?", (file_id,))
    (store.contents / file_id).unlink(missing_ok=True)


def drop_expired(connection: sqlite3.Connection, store: Store, now: int) -> None:
    """Forget all files whose time is over."""
    for row in connection.execute("SELECT id FROM files WHERE expires_at < ?", (now,)).fetchall():
        remove_file(connection, store, row["id"])


def file_object(row: Any) -> FileObject:
    """A row of the table as the API shows it."""
    return {
        "id": row["id"],
        "object": "file",
        "bytes": row["bytes"],
        "created_at": row["created_at"],
        "expires_at": row["expires_at"],
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": "processed",
        "status_details": None,
    }


async def _own(request: Request) -> FileObject:
    """The file that the address names; one that is somebody else's is not there."""
    file_id, owner = request.path_params["file_id"], call_of(request).tenant.name
    found = await state_of(request).store.run(lambda connection: find_file(connection, file_id, owner))
    if found is None:
        raise ApiError(404, f"No such File object: {file_id}", "id")
    return found


def _expires_s(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        message = "Invalid value for 'expires_after.anchor': only 'created_at' is supported."
        raise ApiError.invalid("expires_after.anchor", message)
    low, high = EXPIRY_S
    if seconds is None or not re.fullmatch(r"[0-9]{1,9}", seconds) or not low <= int(seconds) <= high:
        message = f"Invalid 'expires_after.seconds': expected a whole number from {low} to {high}."
        raise ApiError.invalid("expires_after.seconds", message)
    return int(seconds)


def _json(answer: Any) -> Response:
    return Response(json.dumps(answer), media_type="application/json")
