"""What processes cost here: starting them, importing, forking, touching fresh memory, mapping a file.

These costs bound what a command line or a restart can take, and what it costs to keep work in processes of
its own. A start is timed from outside, from before the process exists to after it has ended.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from trimtab.machine.sampling import in_turns, summary

TOUCHED_BYTES = 32 << 20
SLOW_IMPORTS = ("torch",)
"""Left out of a quick measurement: each takes seconds."""


def measure(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The section `process` of the profile.

    Returns
    -------
    `rows`: name, what is done, and the median of its seconds with spread; `absent`: what could not be timed,
    and why
    """
    absent: dict[str, str] = {}
    starts = _starts(quick, absent)
    say(f"{len(starts)} kinds of start, in turns")
    found = in_turns(
        {name: partial(_timed, command) for name, (_, command) in starts.items()}, 2 if quick else 7
    )
    rows = [_row(name, starts[name][0], values) for name, values in found.items()]
    small = _small(absent)
    say(f"{len(small)} kinds of small costs, in turns")
    taken = in_turns({name: run for name, (_, run) in small.items()}, 3 if quick else 15)
    rows += [_row(name, small[name][0], values) for name, values in taken.items()]
    by_name = {row["name"]: row["seconds"] for row in rows}
    for row in rows:  # an import costs what its process takes longer than a bare one
        if row["name"].startswith("import "):
            row["net_seconds"] = max(0.0, row["seconds"] - by_name["python"])
    return {"rows": rows, "absent": absent, "python": sys.version.split()[0]}


def _starts(quick: bool, absent: dict[str, str]) -> dict[str, tuple[str, list[str]]]:
    """name -> (what it is, command)."""
    python = sys.executable
    true = shutil.which("true")
    found = {
        "python": ("an interpreter that does nothing", [python, "-c", ""]),
        "python -I -S": ("the same without its site packages", [python, "-I", "-S", "-c", ""]),
        "trimtab --version": (
            "trimtab's command line",
            [python, "-c", "from trimtab.cli.main import main; main(['--version'])"],
        ),
    }
    if true:
        found["exec"] = ("posix_spawn of a program that ends at once, and its end", [true])
    for name in ("numpy", "torch"):
        if quick and name in SLOW_IMPORTS:
            absent[f"import {name}"] = "left out of a quick measurement"
        elif importlib.util.find_spec(name) is None:
            absent[f"import {name}"] = f"{name} is not installed"
        else:
            found[f"import {name}"] = (
                f"an interpreter that imports {name}",
                [python, "-c", f"import {name}"],
            )
    return found


def _small(absent: dict[str, str]) -> dict[str, tuple[str, Callable[[], float]]]:
    """name -> (what it is, one run)."""
    found: dict[str, tuple[str, Callable[[], float]]] = {
        "page fault": (f"first touch of a page of {mmap.PAGESIZE} bytes", partial(_faults, False)),
        "mmap": ("map and unmap one page", _maps),
        "mapped file page": ("first read of a cached file's page through a mapping", _file_faults),
    }
    if hasattr(mmap, "MADV_HUGEPAGE"):
        found["page fault 2m"] = (
            "first touch of 2 MiB after asking for huge pages",
            partial(_faults, True),
        )
    if hasattr(os, "fork"):
        found["fork"] = ("fork of this process and the child's end", _fork)
    else:
        absent["fork"] = "this system has none"
    return found


def _row(name: str, what: str, values: list[float]) -> dict[str, Any]:
    found = summary(values)
    return {"name": name, "what": what, "seconds": found["median"], "iqr": found["iqr"], "n": found["n"]}


def _timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _faults(huge: bool) -> float:
    """Seconds of the first touch of one page."""
    import numpy as np

    size = (2 << 20) if huge else mmap.PAGESIZE
    with mmap.mmap(-1, TOUCHED_BYTES + size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE if huge else getattr(mmap, "MADV_NOHUGEPAGE", mmap.MADV_NORMAL))
        view = np.frombuffer(memory, np.uint8)
        first = -view.ctypes.data % size  # a huge page begins at a multiple of its size
        touched = view[first : first + TOUCHED_BYTES : size]
        start = time.perf_counter()
        touched[:] = 1
        took = time.perf_counter() - start
        pages = len(touched)
        del view, touched
    return took / pages


def _maps(times: int = 200) -> float:
    start = time.perf_counter()
    for _ in range(times):
        mmap.mmap(-1, mmap.PAGESIZE).close()
    return (time.perf_counter() - start) / times


def _file_faults(size: int = 4 << 20) -> float:
    import numpy as np

    with tempfile.TemporaryFile() as file:
        file.write(b"x" * size)
        file.flush()
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as memory:
            view = np.frombuffer(memory, np.uint8)
            start = time.perf_counter()
            view[:: mmap.PAGESIZE].sum()
            took = time.perf_counter() - start
            del view
    return took / (size // mmap.PAGESIZE)


def _fork() -> float:
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return time.perf_counter() - start
