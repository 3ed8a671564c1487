"""What a process's memory is made of, as far as the process itself and the system can say.

The C library counts what it has handed out, Python counts its arenas, the system counts pages of files and
pages of everything else. Each is counted on its own, so that their sum can be held against what is resident.
"""

from __future__ import annotations

import ctypes
import re
import sys
import tempfile
from pathlib import Path

from trimtab.machine.probe import resident_bytes


def footprint() -> dict[str, int]:
    """Bytes `resident` and `highest` so far; of `files` (programs, libraries, mapped data); of the C
    library's `heap` and of Python's `objects`, 0 where they cannot be told.
    """
    return {
        "resident": resident_bytes(),
        "highest": resident_bytes(key="VmHWM"),
        "files": resident_bytes(key="RssFile") + resident_bytes(key="RssShmem"),
        "heap": heap_bytes(),
        "objects": object_bytes(),
    }


class _Counts(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
            "keepcost",
        )
    ]  # fmt: skip


def heap_bytes() -> int:
    """What the C library holds for the program: the blocks in use, and those mapped one by one."""
    counts = _counts()
    return int(counts.uordblks + counts.hblkhd)


def spare_bytes() -> int:
    """What the program gave back to the C library and the library keeps, to hand it out again."""
    return int(_counts().fordblks)


def _counts() -> _Counts:
    """All zero where the library does not tell."""
    try:
        told = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return _Counts()
    told.restype = _Counts
    counts: _Counts = told()
    return counts


def object_bytes() -> int:
    """The arenas of Python's own allocator, which do not come from the C library."""
    try:
        tell = ctypes.pythonapi._PyObject_DebugMallocStats
        library = ctypes.CDLL(None)
        opened, closed = library.fopen, library.fclose
    except (AttributeError, OSError):
        return 0
    opened.restype, closed.argtypes, tell.argtypes = ctypes.c_void_p, [ctypes.c_void_p], [ctypes.c_void_p]
    with tempfile.NamedTemporaryFile() as file:
        stream = opened(file.name.encode(), b"w")
        if not stream:
            return 0
        tell(stream)
        closed(stream)
        text = Path(file.name).read_text(encoding="ascii", errors="replace")
    found = re.search(r"arenas \* \d+ bytes/arena\s*=\s*([\d,]+)", text)
    return int(found[1].replace(",", "")) if found and sys.implementation.name == "cpython" else 0
