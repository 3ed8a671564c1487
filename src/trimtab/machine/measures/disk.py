"""The disk's curve: direct reads and writes by size and queue depth, in a file that is removed again.

Direct transfers go past the page cache, which would otherwise be what is measured. Where the file system
takes none (memory file systems, some network and FUSE ones) they go through the cache, and the section
says so. The transfers themselves are native (native/disk.h): at a queue depth of 32 the interpreter's lock
would be the disk.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.machine.profile import default_path
from trimtab.machine.sampling import in_turns, summary

SIZES = (4 << 10, 64 << 10, 1 << 20)
DEPTHS = (1, 4, 16)
FILE_BYTES, QUICK_FILE_BYTES = 512 << 20, 64 << 20
MOST_WRITTEN_BYTES, QUICK_WRITTEN_BYTES = 1 << 30, 96 << 20
"""Of all writes beside the file itself: flash wears, and a cloud's disk is paid for."""
LEAST_SPARE = 4
"""The file may take this fraction of the free space, one over that."""


def measure(
    *, quick: bool = False, say: Callable[[str], None] = lambda _: None, folder: Path | None = None
) -> dict[str, Any]:
    """The section `disk` of the profile.

    Parameters
    ----------
    folder : on the disk to measure; default: where the profile itself lies, trimtab's cache

    Returns
    -------
    `rows`: op, size, depth, with `bytes_per_s` and its spread, operations a second and latencies;
    `direct`, or why not; `file_bytes`, `device`, `folder_type`

    Raises
    ------
    UsageError : the folder cannot be written to, or has too little space
    """
    from trimtab import _native

    place = folder or default_path().parent
    with _file(place, QUICK_FILE_BYTES if quick else FILE_BYTES) as (path, span):
        direct, why = _takes_direct(path)
        handle = os.open(path, os.O_RDWR | (os.O_DIRECT if direct else 0))
        try:
            say(f"writing {span >> 20} MiB")
            written = _native.disk_run(handle, True, SIZES[-1], 4, SIZES[-1], 0.0, SIZES[-1])  # warms up
            filling_s = _fill(handle, span)
            rounds = 2 if quick else 5
            cells = [(op, size, depth) for op in ("read", "write") for size in SIZES for depth in DEPTHS]
            writes = sum(op == "write" for op, _, _ in cells) * (rounds + 1)
            most_written = (QUICK_WRITTEN_BYTES if quick else MOST_WRITTEN_BYTES) // writes
            seconds = 0.03 if quick else 0.2
            latencies: dict[tuple[str, int, int], list[float]] = {cell: [] for cell in cells}

            def one(cell: tuple[str, int, int]) -> float:
                op, size, depth = cell
                if not direct:
                    _forget(handle, span)
                most = max(size * depth, most_written) if op == "write" else 1 << 40
                took, operations, each = _native.disk_run(
                    handle, op == "write", size, depth, span, seconds, most, len(latencies[cell])
                )
                latencies[cell] += each
                return float(operations * size / took)

            say(f"{len(cells)} cells, {rounds} times in turns")
            rates = in_turns({cell: partial(one, cell) for cell in cells}, rounds)
            cached = _cached_share(handle, span) if direct else None
        finally:
            os.close(handle)
    del written
    if cached is not None and cached > 0.5:
        direct, why = False, "the file system took direct transfers and kept the file in the page cache"
    return {
        "direct": direct,
        "why_not_direct": why,
        "file_bytes": span,
        "fill_bytes_per_s": span / filling_s,
        "file_system": _file_system(place),
        "rows": [_row(cell, rates[cell], latencies[cell]) for cell in cells],
    }


def _row(cell: tuple[str, int, int], rates: list[float], latencies: list[float]) -> dict[str, Any]:
    op, size, depth = cell
    found = summary(rates)
    ordered = sorted(latencies)
    return {
        "op": op, "size_bytes": size, "depth": depth,
        "bytes_per_s": found["median"], "iqr": found["iqr"], "n": found["n"],
        "operations_per_s": found["median"] / size,
        "latency_s": statistics.median(ordered),
        "latency_p99_s": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }  # fmt: skip


@contextlib.contextmanager
def _file(folder: Path, wanted: int) -> Iterator[tuple[Path, int]]:
    """A file of its own in a temporary folder on the disk, and the bytes it may have; gone afterwards."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(folder).free // LEAST_SPARE
        span = min(wanted, room) // SIZES[-1] * SIZES[-1]
        if span < 16 * SIZES[-1]:
            raise UsageError(
                f"{folder} has {room * LEAST_SPARE >> 20} MiB free, too little to measure its disk",
                "free some space, or leave it out: `trimtab measure --only` names the others",
            )
        own = tempfile.mkdtemp(dir=folder, prefix=".disk-measurement.")
    except OSError as error:
        raise UsageError(f"the disk of {folder} cannot be measured: {error.strerror}") from error
    try:
        path = Path(own) / "file"
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o600))
        yield path, span
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _takes_direct(path: Path) -> tuple[bool, str | None]:
    """Whether this file system takes direct transfers; why not otherwise."""
    if not hasattr(os, "O_DIRECT"):
        return False, "this system has no O_DIRECT"
    from trimtab import _native

    try:
        handle = os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return False, f"the file system refuses to open files for direct transfers: {error.strerror}"
    try:
        _native.disk_run(handle, True, SIZES[0], 1, SIZES[0], 0.0, SIZES[0])
    except OSError as error:
        return False, f"the file system refuses direct transfers: {error.strerror}"
    finally:
        os.close(handle)
    return True, None


def _fill(handle: int, span: int) -> float:
    """Write the whole file once, in order and through to the disk: never written blocks read as nothing."""
    import time

    piece = mmap.mmap(-1, SIZES[-1])  # a page's alignment, as direct transfers want
    piece[:] = os.urandom(SIZES[-1])
    start = time.perf_counter()
    with contextlib.closing(piece):
        for at in range(0, span, SIZES[-1]):
            piece[:8] = at.to_bytes(8, "little")  # no two pieces are the same
            os.pwrite(handle, piece, at)
        os.fdatasync(handle)
    return time.perf_counter() - start


def _forget(handle: int, span: int) -> None:
    """Ask the page cache to drop the file; it may keep what it likes."""
    if hasattr(os, "posix_fadvise"):
        os.fdatasync(handle)
        os.posix_fadvise(handle, 0, span, os.POSIX_FADV_DONTNEED)


def _cached_share(handle: int, span: int) -> float | None:
    """Share of the file that is in the page cache, by mincore; None where it cannot be asked."""
    import ctypes

    try:
        with mmap.mmap(handle, span, flags=mmap.MAP_SHARED) as view:
            pages = span // mmap.PAGESIZE
            seen = (ctypes.c_ubyte * pages)()
            start = ctypes.addressof(ctypes.c_char.from_buffer(view))
            libc = ctypes.CDLL(None, use_errno=True)
            asked = libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(span), seen)
            return None if asked else sum(each & 1 for each in seen) / pages
    except (OSError, ValueError, AttributeError, BufferError):
        return None


def _file_system(folder: Path) -> dict[str, str]:
    """Type and device of the mount a folder lies on, by the longest path that leads to it."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    mounts = [line.split() for line in lines if len(line.split()) >= 3]
    there = folder.resolve()
    holding = [m for m in mounts if there.is_relative_to(m[1].replace("\\040", " "))]
    if not holding:
        return {}
    device, _, kind = max(holding, key=lambda m: len(m[1]))[:3]
    found = {"type": kind, "device": device}
    rotating = Path("/sys/class/block") / Path(device).name / "queue/rotational"
    if rotating.exists():
        found["rotational"] = rotating.read_text(encoding="ascii").strip()
    return found
