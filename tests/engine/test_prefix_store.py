"""Pages on disk: what is read back is what was written, and everything else is ignored and said."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.identity import content_digest, identity
from trimtab.engine.prefix_store import Page, PrefixStore
from trimtab.errors import UsageError

PAGE_BYTES = 4096
FILE_BYTES = PAGE_BYTES + 88 + 32


def digest(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def page(name: object) -> Page:
    """Content that is different for every name."""
    seed = int.from_bytes(digest(name)[:8], "little")
    return np.random.default_rng(seed).integers(0, 256, PAGE_BYTES, np.uint8)


def opened(
    folder: Path, *, most: int = 10**6, model: bytes = b"model", size: int = PAGE_BYTES
) -> PrefixStore:
    store = PrefixStore(folder, most, page_bytes=size, identity=lambda: model)
    wait(store.touch, [])
    return store


def wait(work: Callable[..., None], *arguments: object) -> None:
    """Do something with the store and wait until its thread has come past it."""
    work(*arguments)
    store: PrefixStore = work.__self__  # type: ignore[attr-defined]
    over = threading.Event()
    store.save([], [], over.set)
    assert over.wait(30)


def save(store: PrefixStore, *names: object) -> None:
    wait(store.save, [digest(name) for name in names], [page(name) for name in names], lambda: None)


def load(store: PrefixStore, *names: object) -> tuple[int, list[Page]]:
    """How many were good, and all places they were to be read into."""
    places = [np.zeros(PAGE_BYTES, np.uint8) for _ in names]
    good: list[int] = []
    wait(store.load, [digest(name) for name in names], places, good.append)
    return good[0], places


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.page"))


def test_what_is_read_is_what_was_written_also_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    save(store, "a", "b", "c")
    assert (store.written_pages, store.disk_bytes) == (3, 3 * FILE_BYTES)
    store.close()
    store = opened(tmp_path)
    assert store.reach([digest(name) for name in "abcd"]) == 3
    assert store.reach([digest(name) for name in "xab"]) == 0
    good, places = load(store, "a", "b", "c")
    assert good == 3
    for name, place in zip("abc", places, strict=True):
        assert np.array_equal(place, page(name))
    assert store.disk_bytes == 3 * FILE_BYTES == sum(path.stat().st_size for path in files(tmp_path))
    store.close()


def test_folder_and_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    store = opened(tmp_path / "made" / "here")
    save(store, "a")
    store.close()
    (file,) = files(tmp_path / "made" / "here")
    assert file.stat().st_mode & 0o077 == 0
    assert (tmp_path / "made" / "here").stat().st_mode & 0o077 == 0


def test_another_model_or_another_page_size_sees_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    save(store, "a")
    store.close()
    other = opened(tmp_path, model=b"other model")
    assert not other.has(digest("a"))
    save(other, "a", "b")
    other.close()
    assert len(files(tmp_path)) == 3
    store = opened(tmp_path, size=PAGE_BYTES // 2)  # a bug in the identity: the head still tells
    wait(store.load, [digest("a")], [np.zeros(PAGE_BYTES // 2, np.uint8)], lambda good: None)
    assert store.read_pages == 0
    store.close()


def spoil_shorter(path: Path) -> None:
    os.truncate(path, FILE_BYTES - 1)


def spoil_empty(path: Path) -> None:
    os.truncate(path, 0)


def spoil_longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def spoil_huge(path: Path) -> None:
    os.truncate(path, 1 << 40)


def spoil_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def spoil_head(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)


def spoil_other_page(path: Path) -> None:
    """A sound file of another page under this one's name."""
    path.write_bytes(sorted(path.parent.glob("*.page"))[0].read_bytes())


def spoil_link(path: Path) -> None:
    secret = path.parents[2] / "secret"
    secret.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(secret)


def spoil_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def spoil_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def spoil_gone(path: Path) -> None:
    path.unlink()


SPOILERS = [value for name, value in list(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("when", ["before the start", "while it runs"])
def test_what_is_no_sound_file_is_ignored_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], when: str
) -> None:
    folder = tmp_path / "prefixes"
    names = sorted("abc", key=lambda name: digest(name).hex())  # the last by name is the one that is spoiled
    store = opened(folder)
    save(store, *names)
    if when == "before the start":
        store.close()
    spoil(files(folder)[-1])
    if when == "before the start":
        store = opened(folder)
    with caplog.at_level(logging.WARNING, "trimtab.prefixes"):
        good, places = load(store, *names)
    assert good == 2
    assert all(np.array_equal(place, page(name)) for name, place in zip(names[:2], places, strict=False))
    if store.reach([digest(name) for name in names]) == 2 and (
        spoil is not spoil_gone or when == "while it runs"
    ):
        assert "is ignored" in caplog.text
    assert not store.has(digest(names[2]))
    save(store, names[2])  # and it is written anew
    if spoil is not spoil_folder:
        assert load(store, *names)[0] == 3
    store.close()
    if spoil is spoil_link:
        assert (tmp_path / "secret").exists()


@given(st.binary(max_size=300), st.integers(0, FILE_BYTES))
def test_random_bytes_anywhere_in_a_file_are_never_taken(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int
) -> None:
    folder = tmp_path_factory.mktemp("prefixes")
    store = opened(folder)
    save(store, "a")
    (path,) = files(folder)
    sound = path.read_bytes()
    path.write_bytes(sound[:place] + noise + sound[place + len(noise) :])
    same = path.read_bytes() == sound
    good, places = load(store, "a")
    assert good == same
    if same:
        assert np.array_equal(places[0], page("a"))
    store.close()


def test_the_size_is_bounded_and_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = opened(tmp_path, most=3 * FILE_BYTES + 100)
    save(store, "a", "b", "c")
    wait(store.touch, [digest("a")])
    save(store, "d")
    assert [store.has(digest(name)) for name in "abcd"] == [True, False, True, True]
    assert store.disk_bytes == 3 * FILE_BYTES
    store.close()
    store = opened(tmp_path, most=FILE_BYTES + 100)  # the bound is smaller now; the order is remembered
    assert [store.has(digest(name)) for name in "abcd"] == [False, False, False, True]
    assert len(files(tmp_path)) == 1
    save(store, "e")
    assert [store.has(digest(name)) for name in "de"] == [False, True]
    store.close()
    store = opened(tmp_path, most=10)
    save(store, "f")
    assert (store.disk_bytes, files(tmp_path)) == (0, [])
    store.close()


def test_the_end_of_a_prompt_goes_before_its_beginning(tmp_path: Path) -> None:
    names = [f"page {number}" for number in range(6)]
    store = opened(tmp_path, most=6 * FILE_BYTES)
    save(store, *names)
    wait(store.touch, [digest(name) for name in names])
    save(store, "x", "y")
    assert store.reach([digest(name) for name in names]) == 4
    store.close()


def test_a_second_process_reads_and_writes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = opened(tmp_path)
    save(first, "a")
    with caplog.at_level(logging.WARNING, "trimtab.prefixes"):
        second = opened(tmp_path)
    assert "another server" in caplog.text
    assert not second.writable
    assert load(second, "a")[0] == 1
    save(second, "b")
    wait(second.touch, [digest("a")])
    assert len(files(tmp_path)) == 1
    second.close()
    first.close()


def test_a_folder_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="no prefixes can be kept here"):
        PrefixStore(tmp_path / "file", 10**6, page_bytes=PAGE_BYTES, identity=lambda: b"")


def test_a_full_disk_is_said_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    store = opened(tmp_path)
    with monkeypatch.context() as context, caplog.at_level(logging.WARNING, "trimtab.prefixes"):
        context.setattr(os, "rename", full)
        save(store, "a")
    assert "No space left" in caplog.text
    assert list(tmp_path.glob("*/*")) == []
    save(store, "a")
    assert load(store, "a")[0] == 1
    store.close()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_prefix_store import digest, opened, page
store = opened(Path({folder!r}), most=10**9)
print("ready", flush=True)
for number in range(10**6):
    store.save([digest(number)], [page(number)], lambda: None)
"""


def test_a_kill_while_writing_leaves_sound_pages_and_nothing_else(tmp_path: Path) -> None:
    code = WRITER.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    for round_number in range(4):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            deadline = time.monotonic() + 30
            while len(files(tmp_path)) < 20 * (round_number + 1) and time.monotonic() < deadline:
                time.sleep(0.001)
            process.kill()
    found = len(files(tmp_path))
    assert found >= 80
    store = opened(tmp_path, most=10**9)
    assert list(tmp_path.glob("*/.writing-*")) == []
    assert store.reach([digest(number) for number in range(found)]) == found
    good, places = load(store, *range(found))
    assert good == found
    assert all(np.array_equal(place, page(number)) for number, place in enumerate(places))
    store.close()


def test_a_model_counts_by_its_content(tmp_path: Path) -> None:
    model, memo = tmp_path / "m.gguf", tmp_path / "models.json"
    model.write_bytes(b"one")
    first = content_digest(model, memo)
    assert first == content_digest(model, memo)
    assert memo.exists()
    status = model.stat()
    model.write_bytes(b"two")  # of the same size, and made to look as old
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content_digest(model, memo) != first
    model.rename(tmp_path / "n.gguf")
    assert content_digest(tmp_path / "n.gguf", memo) != first
    for hostile in ("", "[]", "[" * 100_000, '{"x": 1}', "\xff"):
        memo.write_text(hostile, encoding="latin-1")
        assert content_digest(tmp_path / "n.gguf", memo) != first
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"one")
    (folder / "config.json").write_bytes(b"{}")
    before = content_digest(folder, memo)
    (folder / "config.json").write_bytes(b"[]")
    assert content_digest(folder, memo) != before


def test_every_setting_counts(tmp_path: Path) -> None:
    model, memo = tmp_path / "m.gguf", tmp_path / "models.json"
    model.write_bytes(b"one")
    settings = {"kv_type": "bf16", "format": "auto", "kernels": "avx512", "context": 0}
    plain = identity(model, "config", memo=memo, **settings)
    assert plain == identity(model, "config", memo=memo, **settings)
    assert plain != identity(model, "other config", memo=memo, **settings)
    for name in settings:
        assert plain != identity(model, "config", memo=memo, **{**settings, name: "another"})
