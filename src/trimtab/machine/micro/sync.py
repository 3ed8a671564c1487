"""What cores cost each other and what the system costs: the section `sync`, in rows.

Small operations decide how many of them a step can afford: a sleeping thread woken costs more than a whole
layer of a small model.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trimtab.machine.micro.rows import Row, spread
from trimtab.machine.micro.units import processors

Say = Callable[[str], None]

# Event: (cores it takes, samples of a pass, what is measured)
SYNC = {
    "atomic_add": (1, 50, "sequentially consistent addition to a line no other core wants"),
    "atomic_add_contended": (2, 50, "the same with every core adding to one line"),
    "line_round_trip": (2, 50, "two cores take turns writing one cache line"),
    "futex_wake": (2, 30, "from the call that wakes until the sleeper runs"),
    "futex_round_trip": (2, 30, "one sleeper wakes another and is woken"),
}
SYSTEM = {
    "syscall": (1, 50, "getppid, the cheapest call into the kernel"),
    "clock": (1, 50, "reading the steady clock"),
    "page_fault": (1, 20, "first touch of a fresh 4 KiB page"),
    "page_fault_2m": (1, 10, "first touch of a fresh 2 MiB page, where the system gives such"),
    "mmap_read": (1, 30, "a page of a mapped file that the system holds: map, touch each, unmap"),
    "file_read_4k": (1, 30, "pread of 4 KiB that the system holds"),
    "file_read_1m": (1, 30, "pread of 1 MiB that the system holds"),
    "pipe": (1, 50, "one byte written to a pipe and read back by the same thread"),
    "pipe_round_trip": (2, 20, "one byte to another thread and one back"),
    "thread_start": (1, 30, "a thread started and joined"),
}


def measure(*, sync: bool = True, system: bool = True, quick: bool = False, say: Say) -> dict[str, Any]:
    """Costs of synchronisation and of the system: the section `sync`.

    Parameters
    ----------
    sync, system : which of the two suites
    quick : one pass instead of three

    Returns
    -------
    `rows`, see `Row`; what takes two cores is left out where there is one
    """
    cpus = processors()
    passes = 1 if quick else 3
    rows: list[Row] = []
    if sync:
        say("stores met by loads")
        rows += forwards(cpus[0], passes)
        for name, (cores, samples, method) in SYNC.items():
            say(name.replace("_", " "))
            rows += _event("sync", name, cpus, cores, samples, passes, method)
    if system:
        with _file() as path:
            for name, (cores, samples, method) in SYSTEM.items():
                say(name.replace("_", " "))
                rows += _event("os", name, cpus, cores, samples, passes, method, path)
        rows.append(python_call(passes))
    return {"rows": [row.as_dict() for row in rows]}


def forwards(cpu: int, passes: int) -> list[Row]:
    """Store and load of the same address in a chain, by width."""
    from trimtab._native import micro

    rows = []
    for kernel in micro.kernels():
        if kernel["suite"] != "sync":
            continue
        taken = [micro.time(kernel["name"], kernel["width_bits"], 1, 21, [cpu])[0] for _ in range(passes)]
        ns = spread([[sample[1] for sample in one] for one in taken])
        cycles = spread([[sample[0] for sample in one] for one in taken]).calmest
        rows.append(
            _plain("sync", f"store_{kernel['name']}", 1, ns, "chain of a store and a load of its address",
                   kernel["width_bits"], cycles)
        )  # fmt: skip
    return rows


def python_call(passes: int, count: int = 20_000) -> Row:
    """A call from Python into a native function that does nothing."""
    from trimtab._native import micro

    call, samples = micro.nothing, []
    for _ in range(passes):
        one = []
        for _ in range(11):
            start = time.perf_counter_ns()
            for _ in range(count):
                call()
            middle = time.perf_counter_ns()
            for _ in range(count):
                pass
            one.append((2 * middle - start - time.perf_counter_ns()) / count)
        samples.append(one)
    return _plain(
        "os", "python_call", 1, spread(samples), "native function without arguments, less an empty loop"
    )


def _event(
    suite: str,
    name: str,
    cpus: Sequence[int],
    cores: int,
    samples: int,
    passes: int,
    method: str,
    path: str = "",
) -> Iterator[Row]:
    from trimtab._native import micro

    if cores > len(cpus):
        return
    used = list(cpus) if name == "atomic_add_contended" else list(cpus[:cores])
    try:
        if suite == "sync":
            taken = [micro.time_sync(name, samples, used) for _ in range(passes)]
        else:
            taken = [micro.time_os(name, samples, used, path) for _ in range(passes)]
    except ValueError:  # an event this system does not have
        return
    yield _plain(suite, name, len(used), spread(taken), method)


def _plain(
    suite: str, name: str, cores: int, ns: Any, method: str, width_bits: int = 0, cycles: float | None = None
) -> Row:
    return Row(
        name=name, suite=suite, width_bits=width_bits, cores=cores, ns=ns.calmest, cycles=cycles, rate=0.0,
        unit="", n=ns.n, median_ns=ns.median, iqr_ns=ns.iqr, method=method,
    )  # fmt: skip


@contextmanager
def _file() -> Iterator[str]:
    """A file of 1 MiB that the system holds in memory."""
    handle, path = tempfile.mkstemp(prefix="trimtab-micro-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(2**20))
        yield path
    finally:
        os.unlink(path)
