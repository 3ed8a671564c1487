"""The state folder: whole changes or none, one worker for a thing, pages of lists, private to the user."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.server.errors import ApiError
from trimtab.server.storage.store import DATABASE, VERSION, Store, page

INSERT = (
    "INSERT INTO files (id, owner, filename, purpose, bytes, created_at) VALUES (?, ?, 'x', 'batch', 0, 0)"
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "state")
    yield made
    made.close()


def add(store: Store, *names: str, owner: str = "") -> None:
    def insert(connection: sqlite3.Connection) -> None:
        for name in names:
            connection.execute(
                INSERT,
                (name, owner),
            )

    store.transact(insert)


def names(store: Store) -> list[str]:
    return [row["id"] for row in store.rows("SELECT id FROM files ORDER BY serial")]


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    assert not store.exists
    assert not (tmp_path / "state").exists()
    add(store, "a")
    assert store.exists
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / DATABASE).stat().st_mode & 0o077 == 0
    store.close()


def test_a_change_that_fails_leaves_nothing(store: Store) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute(INSERT, ("x", ""))
        raise KeyError("on purpose")

    with pytest.raises(KeyError):
        store.transact(half)
    assert names(store) == []
    add(store, "a")  # and the next one is not hindered
    with pytest.raises(ApiError) as caught:
        add(store, "b", "a")
    assert caught.value.status == 507
    assert names(store) == ["a"]


def test_a_folder_that_cannot_be_written_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ApiError, match="state folder"):
        add(Store(tmp_path / "file" / "state"), "a")


def test_a_folder_of_a_newer_release_is_left_alone(store: Store) -> None:
    add(store, "a")
    store.transact(lambda c: c.execute(f"PRAGMA user_version = {VERSION + 1}"))
    newer = Store(store.folder)
    with pytest.raises(ApiError, match="newer release"):
        add(newer, "b")
    newer.close()
    assert names(store) == ["a"]


def test_threads_and_the_loop_write_side_by_side(store: Store) -> None:
    def write(thread: int) -> None:
        for number in range(20):
            add(store, f"{thread}-{number}")

    async def main() -> int:
        threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await store.run(lambda c: c.execute("SELECT COUNT(*) FROM files").fetchone()[0])
        count: int = await store.run(lambda c: c.execute("SELECT COUNT(*) FROM files").fetchone()[0])
        return count

    assert asyncio.run(main()) == 80


CLAIM = """
import sys
from pathlib import Path
from trimtab.server.storage.store import Store

with Store(Path(sys.argv[1])).claim("job") as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def test_a_claim_ends_with_its_process(store: Store) -> None:
    command = [sys.executable, "-c", CLAIM, str(store.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with store.claim("job") as mine, store.claim("another") as free:
            assert (mine, free) == (False, True)
        other.kill()
        other.wait()
    with store.claim("job") as mine:
        assert mine


@given(st.integers(0, 12), st.integers(1, 5), st.booleans())
def test_pages_join_to_the_whole_list(
    tmp_path_factory: pytest.TempPathFactory, count: int, limit: int, up: bool
) -> None:
    store = Store(tmp_path_factory.mktemp("state"))
    mine = [f"mine-{number}" for number in range(count)]
    for number, name in enumerate(mine):
        add(store, name, owner="me")
        add(store, f"other-{number}", owner="you")

    def next_page(after: str | None, connection: sqlite3.Connection) -> tuple[list[sqlite3.Row], bool]:
        return page(connection, "files", {"owner": "me"}, after=after, limit=limit, ascending=up)

    found: list[str] = []
    more, after = True, None
    while more:
        rows, more = store.transact(partial(next_page, after))
        assert len(rows) == limit or not more
        found += [row["id"] for row in rows]
        after = found[-1] if found else None
    assert found == (mine if up else mine[::-1])
    with pytest.raises(ApiError, match="other-0"):
        store.transact(lambda c: page(c, "files", {"owner": "me"}, after="other-0", limit=1))
    store.close()
