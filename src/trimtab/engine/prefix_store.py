"""Pages of keys and values on disk, so that a restarted engine still knows the long prompts it has seen.

A file is one page, named by the digest of all tokens up to its end (salt included), in a folder named by
everything that decides its bytes: the model's content, the KV type, the kernels, this build. So a file that
is there and whole is the right one, and one that is anything else is ignored and said so. Files appear by
rename and are never changed; what a killed process leaves is swept at the next start. The store knows digests
and bytes; which pages deserve to be kept is decided in `warm.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from trimtab.errors import UsageError

if os.name == "posix":
    import fcntl

Page: TypeAlias = npt.NDArray[np.uint8]

# Magic, version, bytes of the page, its digest, the folder's mark, SHA-256 of all that and of the page.
_HEAD = struct.Struct("<8sQQ32s32s")
_CHECK_BYTES = 32
_MAGIC, _VERSION = b"trimtabK", 1
_SUFFIX = ".page"
_TEMPORARY = ".writing-"

_log = logging.getLogger("trimtab.prefixes")


class PrefixStore:
    """A folder of pages, bounded in size; the least recently used ones go first.

    Reading and writing happen in a thread of its own, one job after the other. The folder belongs to one
    process: a second one that opens it reads, and writes nothing.

    Parameters
    ----------
    folder : made if it does not exist, for this user alone
    most_bytes : of all its files, whatever model they belong to
    page_bytes : of one page
    identity : what decides a page's bytes beside its tokens; called in the thread, as it may read a model

    Raises
    ------
    UsageError : the folder cannot be had
    """

    def __init__(
        self, folder: Path, most_bytes: int, *, page_bytes: int, identity: Callable[[], bytes]
    ) -> None:
        self.folder = folder
        self.read_pages = 0
        self.written_pages = 0
        self._most_bytes = most_bytes
        self._page_bytes = page_bytes
        self._file_bytes = _HEAD.size + _CHECK_BYTES + page_bytes
        self._mark = b""
        self._mine: Path | None = None  # this model's folder; None until it is known
        self._files: OrderedDict[str, int] = OrderedDict()  # path below the folder -> bytes, oldest use first
        self._bytes = 0
        self._hurry = False
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._owner = _owner_of(folder)
        except OSError as error:
            hint = "name a folder that this user may write with --prefix-dir"
            message = f"{folder}: no prefixes can be kept here: {error}"
            raise UsageError(message, hint, "prefix_dir") from error
        if self._owner is None:
            _log.warning("%s is in use by another server: prefixes are read and not written", folder)
        self._jobs.put(lambda: self._open(identity))
        self._thread = threading.Thread(target=self._work, name="trimtab-prefixes", daemon=True)
        self._thread.start()

    @property
    def disk_bytes(self) -> int:
        """Size of all files."""
        return self._bytes

    @property
    def writable(self) -> bool:
        return self._owner is not None and self._mine is not None

    def has(self, digest: bytes) -> bool:
        """Whether there is a file for the page that ends with this digest; any thread may ask."""
        return self._mine is not None and self._key(digest) in self._files

    def reach(self, digests: Sequence[bytes], start: int = 0) -> int:
        """The first place from `start` on that has no file."""
        place = start
        while place < len(digests) and self.has(digests[place]):
            place += 1
        return place

    def load(self, digests: Sequence[bytes], into: Sequence[Page], done: Callable[[int], object]) -> None:
        """Read pages into place, then call `done`, in the store's thread, with how many are good.

        The first bad one ends it: those after it would be of no use.
        """

        def job() -> None:
            good = 0
            for digest, page in zip(digests, into, strict=True):
                if not self._read(digest, page):
                    break
                good += 1
            self.read_pages += good
            done(good)

        self._jobs.put(job)

    def save(self, digests: Sequence[bytes], pages: Sequence[Page], done: Callable[[], object]) -> None:
        """Write pages that nobody changes meanwhile, then call `done` in the store's thread."""

        def job() -> None:
            for digest, page in zip(digests, pages, strict=True):
                if not self._hurry:
                    self._write(digest, page)
            done()

        self._jobs.put(job)

    def touch(self, digests: Sequence[bytes]) -> None:
        """Note that a prompt has been used again."""

        def job() -> None:
            # Its end becomes older than its beginning, without which it is of no use.
            for digest in reversed(digests):
                self._touch(digest)

        self._jobs.put(job)

    def close(self, timeout_s: float | None = None) -> None:
        """End the thread after the jobs it has; after this time only the page in hand is still written."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        self._hurry = True
        self._thread.join()

    # --- the store's thread ---------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                _log.exception("a job of the prefix store failed")
        if self._owner is not None:
            self._owner.close()

    def _open(self, identity: Callable[[], bytes]) -> None:
        """Learn which files are this model's, then look at what is there."""
        mark = hashlib.sha256(identity()).digest()
        mine = self.folder / mark.hex()[:32]
        found: list[tuple[int, str, int]] = []
        for path in self.folder.glob(f"*/*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.lstat()
                # One file that cannot be right must not push all others out.
                if status.st_size > self._most_bytes or (
                    path.parent == mine and status.st_size != self._file_bytes
                ):
                    self._ignored(path, f"it has {status.st_size} bytes")
                else:
                    found.append((status.st_mtime_ns, f"{path.parent.name}/{path.name}", status.st_size))
        for _, key, size in sorted(found):
            self._files[key] = size
            self._bytes += size
        if self._owner is not None:
            for path in self.folder.glob(f"*/{_TEMPORARY}*"):
                _remove(path)
            self._shrink(0)
            mine.mkdir(mode=0o700, exist_ok=True)
        self._mark, self._mine = mark, mine

    def _ignored(self, path: Path, reason: str) -> None:
        _log.warning("%s is ignored: %s", path, reason)
        if self._owner is not None:
            _remove(path)

    def _key(self, digest: bytes) -> str:
        return f"{self._mark.hex()[:32]}/{digest.hex()}{_SUFFIX}"

    def _read(self, digest: bytes, page: Page) -> bool:
        key = self._key(digest)
        path = self.folder / key
        try:
            # No link is followed, and nothing blocks that only looks like a file.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb", buffering=0) as file:
                wrong = self._wrong(file, digest, page)
        except OSError as error:
            wrong = error.strerror or str(error)
        if wrong:
            self._ignored(path, wrong)
            self._forget(key)
            return False
        return True

    def _wrong(self, file: IO[bytes], digest: bytes, page: Page) -> str:
        """Read a file into `page`; what is wrong with it, or nothing."""
        size = os.fstat(file.fileno()).st_size
        if size != self._file_bytes:
            return f"it has {size} bytes, and {self._file_bytes} are expected"
        head = file.read(_HEAD.size) or b""
        if head != self._head(digest):
            return "it is not the page that its name says"
        check = file.read(_CHECK_BYTES) or b""
        view = page.data
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                return "it ends too early"
            done += count
        return "" if check == _checksum(head, page) else "its checksum is wrong"

    def _write(self, digest: bytes, page: Page) -> None:
        if not self.writable or self.has(digest) or self._mine is None:
            return
        if not self._shrink(self._file_bytes):
            return
        head = self._head(digest)
        temporary = ""
        try:
            handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=self._mine)
            with os.fdopen(handle, "wb", buffering=0) as file:
                for part in (head, _checksum(head, page), page.data):
                    if file.write(part) != len(part):
                        raise OSError("the disk is full")
            os.rename(temporary, self.folder / self._key(digest))
        except OSError as error:
            _log.warning("%s: a prefix could not be kept: %s", self._mine, error)
            if temporary:
                _remove(Path(temporary))
            return
        self._files[self._key(digest)] = self._file_bytes
        self._bytes += self._file_bytes
        self.written_pages += 1

    def _head(self, digest: bytes) -> bytes:
        return _HEAD.pack(_MAGIC, _VERSION, self._page_bytes, digest, self._mark)

    def _shrink(self, room: int) -> bool:
        """Remove the least recently used files until `room` more bytes fit; False when they never do."""
        while self._files and self._bytes + room > self._most_bytes:
            key = next(iter(self._files))
            _remove(self.folder / key)
            self._forget(key)
        return self._bytes + room <= self._most_bytes

    def _touch(self, digest: bytes) -> None:
        key = self._key(digest)
        if key in self._files:
            self._files.move_to_end(key)
            with contextlib.suppress(OSError):  # so that the next process knows the order, too
                os.utime(self.folder / key)

    def _forget(self, key: str) -> None:
        self._bytes -= self._files.pop(key, 0)


def _checksum(head: bytes, page: Page) -> bytes:
    digest = hashlib.sha256(head)
    digest.update(page.data)  # lets other threads run
    return digest.digest()


def _owner_of(folder: Path) -> IO[bytes] | None:
    """A lock on the folder, held until it is closed; None when another process has it."""
    file: Any = (folder / ".lock").open("ab")
    if os.name == "posix":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
    owner: IO[bytes] = file
    return owner


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
