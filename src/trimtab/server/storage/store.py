"""What outlives the process: a folder with one SQLite database and the contents of files.

Several servers may share a folder; SQLite orders their changes, and a claim makes sure that only one of them
works on a thing. A killed process leaves either a change or none of it. This module knows rows and paths;
what they mean is decided in `files.py`, `batches.py` and `responses.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")

DATABASE = "state.db"
VERSION = 1
_BUSY_MS = 10_000

# `serial` orders a list and never comes again; times are Unix seconds; what has no columns is JSON.
_TABLES = """
CREATE TABLE files (
    serial INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    filename TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL, expires_at INTEGER
);
CREATE INDEX files_by_owner ON files (owner, serial);
CREATE TABLE batches (
    serial INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    status TEXT NOT NULL, endpoint TEXT NOT NULL, input_file_id TEXT NOT NULL, model TEXT,
    total INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    output_file_id TEXT, error_file_id TEXT, files_expire_s INTEGER, completed INTEGER, failed INTEGER,
    metadata TEXT, errors TEXT, usage TEXT, times TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX batches_by_owner ON batches (owner, serial);
CREATE INDEX batches_by_status ON batches (status, serial);
CREATE TABLE results (
    batch TEXT NOT NULL, line INTEGER NOT NULL, failed INTEGER NOT NULL, content TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    PRIMARY KEY (batch, line)
) WITHOUT ROWID;
CREATE TABLE responses (
    serial INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    previous TEXT, created_at INTEGER NOT NULL, input TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX responses_by_age ON responses (created_at);
"""


class Store:
    """One state folder; made when it is first written to, not before.

    Parameters
    ----------
    folder : for this user alone: texts of requests and answers may be private
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._local = threading.local()
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # SQLite's own lock is not fair: a thread could wait for ever
        self._connections: list[sqlite3.Connection] = []
        self._executor: ThreadPoolExecutor | None = None

    @property
    def exists(self) -> bool:
        """Something was kept here before."""
        return (self.folder / DATABASE).exists()

    @property
    def contents(self) -> Path:
        """The folder of files' contents, each under the id of its file."""
        return self._made(self.folder / "files")

    @property
    def work(self) -> Path:
        """The folder for what batches need while they run."""
        return self._made(self.folder / "batches")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`transact` without blocking the event loop."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "store")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.transact, work)

    def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` as one change of the database: wholly or, when it raises, not at all.

        Raises
        ------
        ApiError : the folder cannot be written, with the reason
        """
        import sqlite3

        try:
            connection = self._connection()
            with self._writing:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = work(connection)
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            return result
        except (sqlite3.Error, OSError) as error:
            raise ApiError(507, f"the server cannot keep this in its state folder: {error}") from error

    def rows(self, query: str, *values: Any) -> Iterator[sqlite3.Row]:
        """What a query finds, not all of it in memory at a time."""
        yield from self._connection().execute(query, values)

    def close(self) -> None:
        """Let go of the database; the threads that used it must have ended their work."""
        if self._executor is not None:
            self._executor.shutdown()
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Whether no other process works on `name` now; if so, none can until the end of the block.

        The system ends a claim with the process that held it, however that ended.
        """
        descriptor = os.open(self.work / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield _locked(descriptor)
        finally:
            os.close(descriptor)

    def _made(self, folder: Path) -> Path:
        if not folder.is_dir():
            try:
                folder.mkdir(0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ApiError(507, f"the server has no state folder: {error}") from error
        return folder

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            with self._lock:
                self._made(self.folder)
                self._local.connection = found = _opened(self.folder / DATABASE)
                self._connections.append(found)
        return found


def _opened(path: Path) -> sqlite3.Connection:
    import sqlite3

    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    # Only `close` uses it from another thread.
    found = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_MS / 1000, check_same_thread=False)
    found.row_factory = sqlite3.Row
    # A killed process loses nothing that was committed; a machine that loses power may lose the last changes,
    # never their order.
    _log_ahead(found)
    found.execute("PRAGMA synchronous = NORMAL")
    _make_tables(found)
    return found


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Write changes to a log first. The change to it does not wait for others' locks, as all else does."""
    import sqlite3

    end = time.monotonic() + _BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def _make_tables(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA user_version").fetchone()[0] == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")  # of two servers that start together, one makes them
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise ApiError(507, f"the state folder was written by a newer release (its version is {version})")
        if version == 0:
            for statement in _TABLES.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _locked(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # a system without it runs one server
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def page(
    connection: sqlite3.Connection, table: str, where: dict[str, Any], *, after: str | None, limit: int,
    ascending: bool = False,
) -> tuple[list[sqlite3.Row], bool]:  # fmt: skip
    """One page of a list, newest first unless `ascending`, and whether more follows.

    Parameters
    ----------
    where : column -> value that it must have
    after : id of the entry before the page

    Raises
    ------
    ApiError : there is no entry `after`
    """
    clauses = [f"{column} = ?" for column in where]
    values = list(where.values())
    if after is not None:
        mine = " AND ".join(["id = ?", "owner = ?"])
        found = connection.execute(f"SELECT serial FROM {table} WHERE {mine}", (after, where["owner"]))
        row = found.fetchone()
        if row is None:
            raise ApiError.invalid("after", f"Invalid 'after': there is no {after!r}.")
        clauses.append("serial > ?" if ascending else "serial < ?")
        values.append(row["serial"])
    order = "ASC" if ascending else "DESC"
    query = f"SELECT * FROM {table} WHERE {' AND '.join(clauses)} ORDER BY serial {order} LIMIT ?"
    rows = connection.execute(query, (*values, limit + 1)).fetchall()
    return rows[:limit], len(rows) > limit
