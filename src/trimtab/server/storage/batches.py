"""/v1/batches: many requests in a file, answered when there is room, whatever happens to the server.

Knows the records of batches and how the API shows them; `batch_runner.py` does the work.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi.responses import Response
from pydantic import Field
from typing_extensions import TypedDict

from trimtab.server.api.queries import listed, text_query, whole_query
from trimtab.server.api.schemas import Metadata, Wire
from trimtab.server.call import call_of
from trimtab.server.errors import ApiError
from trimtab.server.storage.batch_input import LineError
from trimtab.server.storage.files import EXPIRY_S, find_file
from trimtab.server.storage.state import state_of
from trimtab.server.storage.store import page

if TYPE_CHECKING:
    import sqlite3

    from fastapi import Request

    from trimtab.server.served import Served

BatchEndpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
OPEN: tuple[BatchStatus, ...] = ("validating", "in_progress", "finalizing", "cancelling")
"""Batches that the server still has something to do for."""
WINDOW_S = 24 * 3600


class ExpiresAfter(Wire):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=EXPIRY_S[0], le=EXPIRY_S[1])]


class BatchRequest(Wire):
    input_file_id: str
    endpoint: BatchEndpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: Annotated[
        ExpiresAfter | None, Field(description="when the files that the batch makes are forgotten")
    ] = None


class LineErrors(TypedDict):
    object: Literal["list"]
    data: list[LineError]


class RequestCounts(TypedDict):
    total: int
    completed: int
    failed: int


class InputDetails(TypedDict):
    cached_tokens: int


class OutputDetails(TypedDict):
    reasoning_tokens: int


class BatchUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Batch(TypedDict):
    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: LineErrors | None
    input_file_id: str
    completion_window: Literal["24h"]
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


class BatchList(TypedDict):
    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


async def create(request: Request, body: BatchRequest, served: Served) -> Response:
    """Take a batch on; its lines are read later."""
    state, call = state_of(request), call_of(request)
    call.check_model(served)
    owner = call.tenant.name
    batch_id, now = f"batch_{secrets.token_hex(16)}", int(time.time())
    metadata = None if body.metadata is None else json.dumps(body.metadata)
    kept_s = None if body.output_expires_after is None else body.output_expires_after.seconds

    def add(connection: sqlite3.Connection) -> Batch:
        found = find_file(connection, body.input_file_id, owner)
        if found is None:
            raise ApiError.invalid("input_file_id", f"No such File object: {body.input_file_id[:80]}")
        if found["purpose"] != "batch":
            message = f"Invalid 'input_file_id': its purpose is '{found['purpose']}'; it must be 'batch'."
            raise ApiError.invalid("input_file_id", message)
        # A name of its own for the same bytes: the batch goes on when the file is deleted.
        _link(state.store.contents / found["id"], state.store.work / f"{batch_id}.jsonl")
        connection.execute(
            "INSERT INTO batches (id, owner, status, endpoint, input_file_id, created_at, expires_at,"
            " files_expire_s, metadata) VALUES (?, ?, 'validating', ?, ?, ?, ?, ?, ?)",
            (batch_id, owner, body.endpoint, found["id"], now, now + WINDOW_S, kept_s, metadata),
        )
        return read_batch(connection, batch_id)

    made = await state.store.run(add)
    state.runner.wake()
    return _json(made)


async def list_batches(request: Request, served: Served) -> Response:
    """The caller's batches, newest first."""
    state, owner = state_of(request), call_of(request).tenant.name
    after, limit = text_query(request, "after"), whole_query(request, "limit", 20, 1, 100)

    def read(connection: sqlite3.Connection) -> BatchList:
        rows, more = page(connection, "batches", {"owner": owner}, after=after, limit=limit)
        found: BatchList = listed([batch_object(connection, row) for row in rows], more)
        return found

    return _json(await state.store.run(read))


async def retrieve(request: Request, served: Served) -> Response:
    """How far one batch is."""
    batch_id, owner = request.path_params["batch_id"], call_of(request).tenant.name
    return _json(await state_of(request).store.run(lambda c: batch_object(c, _own(c, batch_id, owner))))


async def cancel(request: Request, served: Served) -> Response:
    """End a batch early; what is answered already is kept."""
    state, batch_id, owner = state_of(request), request.path_params["batch_id"], call_of(request).tenant.name

    def change(connection: sqlite3.Connection) -> Batch:
        row = _own(connection, batch_id, owner)
        if row["status"] in ("cancelling", "cancelled"):
            return batch_object(connection, row)
        if row["status"] not in OPEN:
            raise ApiError(409, f"Cannot cancel a batch with status '{row['status']}'.")
        set_status(connection, batch_id, "cancelling")
        return read_batch(connection, batch_id)

    changed = await state.store.run(change)
    state.runner.wake()
    return _json(changed)


def read_batch(connection: sqlite3.Connection, batch_id: str) -> Batch:
    """A batch as the API shows it."""
    row = connection.execute("SELECT * FROM batches WHERE id = ?", (batch_id,)).fetchone()
    return batch_object(connection, row)


def set_status(connection: sqlite3.Connection, batch_id: str, status: BatchStatus, **columns: Any) -> None:
    """Move a batch on and note when."""
    changes = {"status": status, **columns}
    assigned = ", ".join(f"{column} = ?" for column in changes)
    connection.execute(
        f"UPDATE batches SET {assigned}, times = json_set(times, ?, ?) WHERE id = ?",
        (*changes.values(), f"$.{status}_at", int(time.time()), batch_id),
    )


def counted(connection: sqlite3.Connection, batch_id: str) -> tuple[int, int, BatchUsage]:
    """Lines answered and lines failed so far, and the tokens they took."""
    sums = ", ".join(f"COALESCE(SUM({column}), 0)" for column in _COUNTED)
    query = f"SELECT COUNT(*), {sums} FROM results WHERE batch = ?"
    lines, failed, given, cached, made = connection.execute(query, (batch_id,)).fetchone()
    usage: BatchUsage = {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + made,
    }
    return lines - failed, failed, usage


_COUNTED = ("failed", "input_tokens", "cached_tokens", "output_tokens")


def batch_object(connection: sqlite3.Connection, row: sqlite3.Row) -> Batch:
    """A row of the table as the API shows it."""
    times: dict[str, int] = json.loads(row["times"])
    if row["usage"] is None:
        completed, failed, usage = counted(connection, row["id"])
    else:  # it is over
        completed, failed, usage = row["completed"], row["failed"], json.loads(row["usage"])
    return {
        "id": row["id"],
        "object": "batch",
        "endpoint": row["endpoint"],
        "model": row["model"],
        "errors": None if row["errors"] is None else {"object": "list", "data": json.loads(row["errors"])},
        "input_file_id": row["input_file_id"],
        "completion_window": "24h",
        "status": row["status"],
        "output_file_id": row["output_file_id"],
        "error_file_id": row["error_file_id"],
        "created_at": row["created_at"],
        "in_progress_at": times.get("in_progress_at"),
        "expires_at": row["expires_at"],
        "finalizing_at": times.get("finalizing_at"),
        "completed_at": times.get("completed_at"),
        "failed_at": times.get("failed_at"),
        "expired_at": times.get("expired_at"),
        "cancelling_at": times.get("cancelling_at"),
        "cancelled_at": times.get("cancelled_at"),
        "request_counts": {"total": row["total"], "completed": completed, "failed": failed},
        "usage": usage,
        "metadata": None if row["metadata"] is None else json.loads(row["metadata"]),
    }


def _own(connection: sqlite3.Connection, batch_id: str, owner: str) -> Any:
    """The row of this id; one that is somebody else's is not there."""
    query = "SELECT * FROM batches WHERE id = ? AND owner = ?"
    row = connection.execute(query, (batch_id, owner)).fetchone()
    if row is None:
        raise ApiError(404, f"No such Batch object: {batch_id}", "id")
    return row


def _link(file: Any, name: Any) -> None:
    import os
    import shutil

    try:
        os.link(file, name)
    except OSError:  # a file system without such names
        shutil.copyfile(file, name)


def _json(answer: Any) -> Response:
    return Response(json.dumps(answer), media_type="application/json")
