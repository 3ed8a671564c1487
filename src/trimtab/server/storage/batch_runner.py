"""Works batches off: one line at a time through the same functions that answer live requests.

It has a thread and an event loop of its own, so that live requests never wait for it. Every line's result is
one row, written once; whoever starts the server again goes on with the lines that have none. Lines have a
lower priority than live requests, and take at most half of the engine's places, less those that live requests
use.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trimtab.errors import Busy
from trimtab.server.api.bodies import checked
from trimtab.server.api.schemas import ChatRequest, CompletionRequest
from trimtab.server.call import Call
from trimtab.server.endpoints import ENDPOINTS, load
from trimtab.server.errors import ApiError, error_answer, refusal
from trimtab.server.storage.batch_input import BadLine, Line, check, parse, read_lines
from trimtab.server.storage.batches import OPEN, BatchStatus, counted, set_status
from trimtab.server.storage.files import add_file, drop_expired
from trimtab.server.storage.uploads import PARTIAL

if TYPE_CHECKING:
    import sqlite3

    from fastapi import FastAPI, Response
    from pydantic import BaseModel

    from trimtab.server.served import Loading, Served
    from trimtab.server.storage.store import Store

T = TypeVar("T")

PRIORITY = 100
"""Of everything that runs for a batch; live requests have 0."""
LOOK_EVERY_S = 10.0
"""How soon batches of other servers that share the folder, and ends of their time, are noticed."""
TOGETHER = 8
"""Batches worked on at a time."""
AGAIN_S = 0.5
"""After a full queue."""
KEPT_OUT = 507
"""Status of a folder that cannot be written."""
ORPHAN_S = 24 * 3600
"""Age at which contents that belong to nothing are removed."""

_log = logging.getLogger("trimtab.server")


@dataclass(slots=True, eq=False)
class Job:
    """One batch at work.

    Parameters
    ----------
    ending : why it ends before its last line, once it does
    """

    id: str
    owner: str
    endpoint: str
    expires_at: int
    path: Path
    ending: BatchStatus | None = None
    running: set[asyncio.Task[None]] = field(default_factory=set)
    handles: list[Any] = field(default_factory=list)


class BatchRunner:
    """Works off the batches in a state folder that ask for this server's model.

    Parameters
    ----------
    app : whose endpoints answer the lines
    max_line_bytes : longer lines are refused
    """

    def __init__(self, app: FastAPI, store: Store, loading: Loading, max_line_bytes: int) -> None:
        self._app = app
        self._kept = store
        self._loading = loading
        self._max_line_bytes = max_line_bytes
        self._files = ThreadPoolExecutor(1, "batch-files")
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._room: asyncio.Event | None = None
        self._suspects = asyncio.Lock()
        self._stopping = False
        self._jobs: dict[str, tuple[Job, asyncio.Task[None]]] = {}

    def wake(self) -> None:
        """Something has changed in the folder; the first call starts the thread."""
        with self._lock:
            if self._stopping:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
                self._thread.start()
            elif self._loop is not None and self._changed is not None:
                with contextlib.suppress(RuntimeError):  # the loop has just closed
                    self._loop.call_soon_threadsafe(self._changed.set)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Begin no line any more and give up those under way: they have no result, and will run again."""
        with self._lock:
            self._stopping = True
            thread, loop, changed = self._thread, self._loop, self._changed
        if thread is None:
            return
        if loop is not None and changed is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(changed.set)
        thread.join(timeout_s)

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            served = self._loading.result()
        except BaseException:
            return  # the server ends for the same reason
        try:
            asyncio.run(self._work(served))
        except Exception:
            _log.exception("batches have stopped; they go on when the server is started again")

    async def _work(self, served: Served) -> None:
        self._changed, self._room, self._suspects = asyncio.Event(), asyncio.Event(), asyncio.Lock()
        with self._lock:
            self._loop = asyncio.get_running_loop()
        self._tidy()
        try:
            while not self._stopping:
                self._changed.clear()
                self._look(served)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), LOOK_EVERY_S)
        finally:
            for _, task in self._jobs.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in self._jobs.values()), return_exceptions=True)
            self._files.shutdown()

    def _look(self, served: Served) -> None:
        """Begin what has not begun, and tell running batches what has been decided about them."""
        self._jobs = {name: pair for name, pair in self._jobs.items() if not pair[1].done()}
        places = ", ".join("?" * len(OPEN))
        query = f"SELECT * FROM batches WHERE status IN ({places}) ORDER BY serial"
        for row in self._do(lambda c: c.execute(query, OPEN).fetchall()):
            found = self._jobs.get(row["id"])
            if found is None:
                if len(self._jobs) < TOGETHER and (row["model"] is None or served.knows(row["model"])):
                    job = Job(
                        row["id"], row["owner"], row["endpoint"], row["expires_at"],
                        self._kept.work / f"{row['id']}.jsonl",
                    )  # fmt: skip
                    task = asyncio.create_task(self._batch(job, served))
                    task.add_done_callback(self._look_again)
                    self._jobs[job.id] = job, task
                continue
            job = found[0]
            if job.ending is None and row["status"] == "cancelling":
                self._end(job, "cancelled")
            elif job.ending is None and time.time() > job.expires_at:
                self._end(job, "expired")

    def _look_again(self, task: asyncio.Task[None]) -> None:
        if self._changed is not None:
            self._changed.set()

    def _end(self, job: Job, reason: BatchStatus) -> None:
        job.ending = reason
        for task in job.running:
            task.cancel()
        if self._room is not None:
            self._room.set()

    # --- one batch ------------------------------------------------------------------------------------------

    async def _batch(self, job: Job, served: Served) -> None:
        try:
            with self._kept.claim(job.id) as mine:
                if mine:
                    await self._steps(job, served)
            if not mine:  # another server has it
                await asyncio.sleep(LOOK_EVERY_S)
            elif self._status(job) not in OPEN:
                for name in (job.path, self._kept.work / f"{job.id}.lock"):
                    name.unlink(missing_ok=True)
        except (ApiError, OSError) as error:
            if isinstance(error, ApiError) and error.status != KEPT_OUT:
                raise
            _log.error("batch %s waits: %s", job.id, error)
            await asyncio.sleep(LOOK_EVERY_S)
        except Exception as error:
            _log.exception("batch %s failed", job.id)
            self._fail(job, [{"code": "server_error", "message": str(error), "param": None, "line": None}])

    async def _steps(self, job: Job, served: Served) -> None:
        """From wherever the batch is to its end."""
        run = asyncio.get_running_loop().run_in_executor
        if self._status(job) == "validating":
            found = await run(
                self._files, check, job.path, job.endpoint, self._max_line_bytes, served.knows, served.name
            )
            if found.errors:
                self._fail(job, found.errors)
                return
            if self._status(job) == "validating":
                columns = {"total": found.total, "model": found.model}
                self._do(lambda c: set_status(c, job.id, "in_progress", **columns))
        status = self._status(job)
        if status == "cancelling":
            job.ending = "cancelled"
        elif status == "in_progress":
            if time.time() > job.expires_at:
                job.ending = "expired"
            else:
                await self._lines(job, served)
            if job.ending is None:
                self._do(lambda c: set_status(c, job.id, "finalizing"))
        await run(self._files, self._finish, job)

    async def _lines(self, job: Job, served: Served) -> None:
        """Answer every line that has no answer yet."""
        done = self._done(job)
        failures: list[BaseException] = []

        def ended(task: asyncio.Task[None]) -> None:
            job.running.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                failures.append(error)
            if self._room is not None:
                self._room.set()

        try:
            async for line in self._undone(job, done):
                await self._place(job, served)
                if failures:
                    raise failures[0]
                if job.ending is not None:
                    break
                task = asyncio.create_task(self._line(job, line, served))
                job.running.add(task)
                task.add_done_callback(ended)
            if job.running:
                await asyncio.wait(tuple(job.running))
            if failures and job.ending is None:
                raise failures[0]
        finally:
            for task in tuple(job.running):
                task.cancel()
            await asyncio.gather(*job.running, return_exceptions=True)

    async def _undone(self, job: Job, done: set[int]) -> AsyncIterator[Line]:
        """The lines without an answer; read as they are needed."""
        for number, raw in read_lines(job.path, self._max_line_bytes):
            if number not in done:
                yield parse(number, raw, job.endpoint, self._max_line_bytes)
            else:
                await asyncio.sleep(0)

    async def _place(self, job: Job, served: Served) -> None:
        """Wait until one more line may be under way."""
        assert self._room is not None
        while job.ending is None:
            if self._app.state.operations.lifecycle.draining:
                # The engine is for the requests that must finish; the next start goes on with the batch.
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            mine = sum(len(other.running) for other, _ in self._jobs.values())
            live = max(0, served.engine.open_requests - mine)
            if mine < max(1, served.engine.settings.max_running // 2 - live):
                return
            self._room.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), 0.1)

    async def _line(self, job: Job, line: Line, served: Served) -> None:
        """Answer one line and keep the answer."""
        status, body, call = await self._tried(job, line, served)
        if status >= 500:
            # A step that fails ends all that were in it: tried again without the other suspects, each line
            # gets what it deserves.
            async with self._suspects:
                status, body, call = await self._tried(job, line, served)
        given, cached, made = _usage(body) if status == 200 else (0, 0, 0)
        request_id = call.id or f"req_{secrets.token_hex(12)}"
        content = (
            f'{{"id": "batch_req_{secrets.token_hex(12)}", "custom_id": {json.dumps(line.custom_id)}, '
            f'"response": {{"status_code": {status}, "request_id": {json.dumps(request_id)}, '
            f'"body": {body}}}, "error": null}}\n'
        )
        row = (job.id, line.number, int(status != 200), content, given, cached, made)
        # A line that two servers answered keeps its first answer.
        self._do(lambda c: c.execute("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?, ?, ?)", row))

    async def _tried(self, job: Job, line: Line, served: Served) -> tuple[int, str, Call]:
        """Status, body and call, once the engine has had room for the line."""
        while True:
            call = self._app.state.operations.call_for(job.owner, job.endpoint, PRIORITY)
            if call is None:
                gone = error_answer(
                    401, "the key that this batch was made with is no more", None, "invalid_api_key"
                )
                return 401, bytes(gone.body).decode(), Call()
            try:
                status, body = await self._answer(job, line, served, call)
                call.status = status
            finally:
                self._app.state.operations.over(call)
            if status not in (429, 503):
                return status, body, call
            # The engine is full or closing: that says nothing about the line.
            await asyncio.sleep(AGAIN_S)

    async def _answer(self, job: Job, line: Line, served: Served, call: Call) -> tuple[int, str]:
        """Status and body, as a live request would get them."""
        from starlette.requests import Request

        scope = {
            "type": "http", "method": "POST", "path": job.endpoint, "query_string": b"", "headers": [],
            "state": {"call": call}, "app": self._app,
        }  # fmt: skip
        try:
            create, kind = _function(job.endpoint)
            answer = await create(Request(scope, receive=_forever), checked(line.body, kind), served)
        except asyncio.CancelledError:
            raise
        except Busy:
            return 429, ""
        except Exception as error:
            try:
                answer = refusal(error, job.endpoint)
            except Exception:
                _log.exception("line %d of batch %s failed", line.number, job.id)
                answer = error_answer(500, "the server failed on this request; its log has the details")
        return answer.status_code, bytes(answer.body).decode()

    # --- the end of a batch ---------------------------------------------------------------------------------

    def _finish(self, job: Job) -> None:
        """Write the files of a batch and close its record, in one change."""
        store = self._kept
        read = "SELECT content FROM results WHERE batch = ? AND failed = ? ORDER BY line"
        answers = self._written(job, "output", (row["content"] for row in store.rows(read, job.id, 0)))
        problems = self._written(job, "error", self._problems(read, job))

        def close(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT * FROM batches WHERE id = ?", (job.id,)).fetchone()
            completed, failed, usage = counted(connection, job.id)
            if job.ending == "expired":
                failed = row["total"] - completed
            columns: dict[str, Any] = {"completed": completed, "failed": failed, "usage": json.dumps(usage)}
            for kind, path in (("output", answers), ("error", problems)):
                if path is not None:
                    kept = add_file(
                        connection, store, path, job.owner, f"{job.id}_{kind}.jsonl", "batch_output",
                        file_id=_file_id(job.id, kind), expires_s=row["files_expire_s"],
                    )  # fmt: skip
                    columns[f"{kind}_file_id"] = kept["id"]
            set_status(connection, job.id, job.ending or "completed", **columns)
            connection.execute("DELETE FROM results WHERE batch = ?", (job.id,))

        store.transact(close)

    def _problems(self, query: str, job: Job) -> Iterator[str]:
        """Lines that failed, and in a batch whose time was over those that nobody came to."""
        for row in self._kept.rows(query, job.id, 1):
            yield row["content"]
        if job.ending != "expired":
            return
        done = self._done(job)
        for number, raw in read_lines(job.path, self._max_line_bytes):
            if number in done:
                continue
            with contextlib.suppress(BadLine):
                line = parse(number, raw, job.endpoint, self._max_line_bytes)
                error = {
                    "code": "batch_expired",
                    "message": "This request could not be executed before the completion window expired.",
                }
                entry = {
                    "id": f"batch_req_{secrets.token_hex(12)}", "custom_id": line.custom_id, "response": None,
                    "error": error,
                }  # fmt: skip
                yield json.dumps(entry) + "\n"

    def _written(self, job: Job, kind: str, contents: Iterator[str]) -> Path | None:
        """A file of these lines, wholly on the disk; None without any."""
        path = self._kept.contents / f"{_file_id(job.id, kind)}{PARTIAL}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            count = sum(bool(file.write(content)) for content in contents)
            file.flush()
            os.fsync(file.fileno())
        if count:
            return path
        path.unlink()
        return None

    def _fail(self, job: Job, errors: list[Any]) -> None:
        self._do(lambda c: set_status(c, job.id, "failed", errors=json.dumps(errors)))

    # --- the folder -----------------------------------------------------------------------------------------

    def _status(self, job: Job) -> BatchStatus:
        query = "SELECT status FROM batches WHERE id = ?"
        status: BatchStatus = self._do(lambda c: c.execute(query, (job.id,)).fetchone())["status"]
        return status

    def _done(self, job: Job) -> set[int]:
        """Numbers of the lines that have their answer."""
        return {row["line"] for row in self._kept.rows("SELECT line FROM results WHERE batch = ?", job.id)}

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._kept.transact(work)

    def _tidy(self) -> None:
        """Remove what killed processes left, once it is old enough to be nobody's."""
        store, now = self._kept, time.time()
        self._do(lambda c: drop_expired(c, store, int(now)))
        known = {row["id"] for row in store.rows("SELECT id FROM files")}
        open_ones = f"SELECT id FROM batches WHERE status IN ({', '.join('?' * len(OPEN))})"
        known |= {row["id"] for row in store.rows(open_ones, *OPEN)}
        for path in (*store.contents.iterdir(), *store.work.iterdir()):
            with contextlib.suppress(OSError):
                if path.name.partition(".")[0] not in known and now - path.stat().st_mtime > ORPHAN_S:
                    path.unlink()


def _file_id(batch_id: str, kind: str) -> str:
    """The same after a crash, so that a file is never there twice."""
    return f"file-{hashlib.sha256(f'{batch_id} {kind}'.encode()).hexdigest()[:24]}"


def _usage(body: str) -> tuple[int, int, int]:
    """Tokens in, of them shared, and out, by the names of whichever endpoint answered."""
    usage: dict[str, Any] = json.loads(body).get("usage") or {}
    given = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    made = usage.get("completion_tokens", usage.get("output_tokens", 0))
    return given, details.get("cached_tokens", 0), made


def _function(endpoint: str) -> tuple[Callable[..., Awaitable[Response]], type[BaseModel]]:
    """What answers a request of an endpoint, and the type of its body."""
    if endpoint == "/v1/chat/completions":
        from trimtab.server.api import chat

        return chat.create, ChatRequest
    if endpoint == "/v1/completions":
        from trimtab.server.api import completions

        return completions.create, CompletionRequest
    found = next(one for one in ENDPOINTS if one.path == endpoint and one.method == "POST")
    function, kind, _ = load(found)
    return function, kind


async def _forever() -> Any:
    """A client that never leaves."""
    await asyncio.Event().wait()
