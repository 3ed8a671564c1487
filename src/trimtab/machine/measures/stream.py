"""Memory bandwidth by working set, pattern, number type and threads, and what a parallel region costs.

STREAM (arXiv 2206.06302) over the executors and first-touch allocators that the engine's own kernels run on,
so what is measured is what a kernel can get. Beside STREAM's own four passes there is `read`, a sum, which is
how a decode step meets the weights, and `fill`, which only writes.

Two rates belong to every pass. `bytes_per_s` counts as STREAM does: what the program reads and writes.
`traffic_bytes_per_s` adds the lines that a plain store makes the processor read before it writes them;
streaming stores, used for working sets that no cache holds, spare that. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.machine.probe import describe

EXECUTORS = ("serial", "parallel", "fork-join", "block")
"""`serial`: one thread. `parallel`: all threads, but one of them touched the memory first. `fork-join`: all
threads, each touched what it works on. `block`: the same, a block of the range for each NUMA domain."""

DTYPES = {"f64": 8, "f32": 4, "bf16": 2}
"""Number types and their bytes."""

# Arrays a pass reads and writes, as STREAM counts.
PATTERNS = {"read": (1, 0), "copy": (1, 1), "scale": (1, 1), "add": (2, 1), "triad": (2, 1), "fill": (0, 1)}

SIZES = tuple(2**power for power in range(14, 31))
"""Working sets, 16 KiB to 1 GiB: all bytes that a pass goes through, whatever the number of its arrays."""
QUICK_SIZES = (2**15, 2**19, 2**23, 2**27)

_LEAST_PASS_BYTES = 2**21  # a pass over less is repeated until it has moved this much, about 40 us
_KNEE = 0.8


@dataclass(frozen=True, slots=True)
class Rate:
    """One cell: a pass of one kind over one working set.

    Parameters
    ----------
    bytes_per_s : best pass, first one excluded, bytes counted as STREAM counts them
    median_bytes_per_s : of the same passes
    traffic_bytes_per_s : the best pass with what plain stores read on top
    store : the instruction that writes; empty for `read`
    """

    executor: str
    threads: int
    dtype: str
    pattern: str
    working_set_bytes: int
    bytes_per_s: float
    median_bytes_per_s: float
    traffic_bytes_per_s: float
    store: str


def measure(
    *, executors: Sequence[str] = ("fork-join",), dtypes: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None, threads: Sequence[int] | None = None, quick: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure the section `bandwidth`.

    Parameters
    ----------
    executors : of `EXECUTORS`; the first one's rates are `rows`, those of the others `other_rows`
    dtypes : of `DTYPES`; default doubles, which is what ceilings are read from
    sizes : working sets in bytes; default 16 KiB to 1 GiB, less where memory is short
    threads : numbers of threads; default 1 and all processors
    quick : fewer passes, and four sizes unless they are given

    Returns
    -------
    `rows`, `other_rows` : see `Rate`; where several rows agree in pattern, threads and working set, the last
        is that of doubles with the store that suits the size
    `region_s` : seconds of an empty parallel region, by executor and threads
    `read_bytes_per_s`, `triad_bytes_per_s` : by threads, of doubles in the largest working set
    `knees_bytes` : see `knees`
    `pinned` : whether every thread could be tied to its processor; `targets`, the NUMA domains

    Raises
    ------
    UsageError : an unknown executor or type, an impossible size or number of threads
    """
    from trimtab import _native

    _check("executor", executors, EXECUTORS)
    if dtypes is None:
        dtypes = ("f64",)
    _check("dtype", dtypes, tuple(DTYPES))
    counts = _thread_counts(threads)
    if sizes is None:
        sizes = [size for size in (QUICK_SIZES if quick else SIZES) if size <= _room_bytes()]
    _check_sizes(sizes)
    # Doubles come last: who looks a row up by pattern, threads and size finds theirs.
    ordered = [name for name in DTYPES if name in dtypes][::-1]
    kernels, cache = _native.choose_kernels(), last_cache_bytes()
    rows: list[Rate] = []
    regions: dict[str, dict[str, float]] = {}
    pinned = True
    for executor in executors:
        for count in (1,) if executor == "serial" else counts:
            say(f"{executor}, {count} thread{'s' * (count > 1)}")
            place = _native.StreamPlace(executor, count)
            region = place.region_seconds(1000, 5 if quick else 20)
            regions.setdefault(executor, {})[str(count)] = min(region) / 1000
            for dtype in ordered:
                for size in sizes:
                    rows += _cells(_native, place, kernels, executor, dtype, size, cache, quick)
            pinned = pinned and place.all_pinned
    first = [row for row in rows if row.executor == executors[0]]
    return {
        "rows": [asdict(row) for row in first],
        "other_rows": [asdict(row) for row in rows if row.executor != executors[0]],
        "region_s": regions,
        "read_bytes_per_s": _at_largest(first, "read"),
        "triad_bytes_per_s": _at_largest(first, "triad"),
        "knees_bytes": knees(first),
        "last_cache_bytes": cache,
        "pinned": pinned,
        "targets": [{"node": node, "cpus": cpus} for node, cpus in _native.host_targets()],
        "kernels": kernels.name,
    }


def parse_sizes(text: str) -> list[int]:
    """Working sets: `16K..1G` doubles from one to the other, `32K,8M` are these two; K is 1024.

    Raises
    ------
    UsageError : anything else
    """
    found: list[int] = []
    for part in text.split(","):
        low, dots, high = part.partition("..")
        size, last = _size(low, text), _size(high if dots else low, text)
        if last < size or size == 0:
            raise UsageError(f"--ws {text}: {part!r} is no range", "write it like 16K..1G", "ws")
        while size <= last:
            found.append(size)
            size *= 2
    return sorted(set(found))


def last_cache_bytes() -> int:
    """Size of the largest cache; 32 MiB where the system does not say."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    found = [re.fullmatch(r"(\d+)([KMG]?)", size) for size in describe().caches.values()]
    return max((int(each[1]) * units[each[2]] for each in found if each), default=2**25)


def knees(rows: Iterable[Rate]) -> list[int]:
    """Working sets from which on reading with the most threads is a fifth slower and more: a cache ends."""
    reads = [row for row in rows if row.pattern == "read" and row.dtype == "f64"]
    most = max((row.threads for row in reads), default=0)
    curve = sorted((row.working_set_bytes, row.bytes_per_s) for row in reads if row.threads == most)
    # A fall that goes on over several sizes is one knee, where it is steepest.
    found: list[tuple[int, float]] = []
    falling = False
    for (_, before), (size, rate) in itertools.pairwise(curve):
        share = rate / before
        if share < _KNEE and (not falling or share < found[-1][1]):
            if falling:
                found.pop()
            found.append((size, share))
        falling = share < _KNEE
    return [size for size, _ in found]


def _cells(
    native: Any, place: Any, kernels: Any, executor: str, dtype: str, size: int, cache: int, quick: bool
) -> list[Rate]:
    """All patterns over one working set; past the caches with both stores, the streaming ones last."""
    rows = []
    repeats = max(1, _LEAST_PASS_BYTES // size)
    rounds = 4 if size > 2**26 else 6 if quick else 12
    for pattern, (read, written) in PATTERNS.items():
        arrays = read + written
        n = max(1, size // arrays // DTYPES[dtype])
        stream = native.Stream(place, kernels, dtype, n, ["sum" if pattern == "read" else pattern])
        past = bool(written) and size > cache
        # Plain stores past the caches show what reading for ownership costs; once, in doubles.
        for streaming in (False, True) if past and dtype == "f64" else (past,):
            seconds = [each / repeats for each in stream.trial(rounds, repeats, streaming)[0][1:]]
            counted = arrays * n * DTYPES[dtype]
            extra = 0 if streaming else written * n * DTYPES[dtype]
            store = native.stream_store(kernels, dtype, streaming) if written else ""
            rates = [each / min(seconds) for each in (counted, counted + extra)]
            median = counted / statistics.median(seconds)
            rows.append(
                Rate(executor, place.threads, dtype, pattern, size, rates[0], median, rates[1], store)
            )
    return rows


def _at_largest(rows: Sequence[Rate], pattern: str) -> dict[str, float]:
    """By threads: the rate of doubles in the largest working set, with the store that is used there."""
    best: dict[str, Rate] = {}
    for row in rows:
        if row.pattern == pattern and row.dtype == "f64":
            known = best.get(str(row.threads))
            if known is None or row.working_set_bytes >= known.working_set_bytes:
                best[str(row.threads)] = row
    return {threads: row.bytes_per_s for threads, row in best.items()}


def _thread_counts(threads: Sequence[int] | None) -> list[int]:
    usable = describe().usable
    counts = sorted(set(threads or (1, usable)))
    for count in counts:
        if not 1 <= count <= 1024:
            raise UsageError(f"--threads {count}: from 1 to 1024", f"this machine has {usable}", "threads")
    return counts


def _check(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names or [""]:
        if name not in known:
            raise UsageError(f"--{what} {name}: no such {what}", f"there is {', '.join(known)}", what)


def _check_sizes(sizes: Sequence[int]) -> None:
    if not sizes:
        raise UsageError("no working set to measure", "name some: --ws 16K..64M", "ws")
    room = _room_bytes()
    for size in sizes:
        if size < 4096:
            raise UsageError(f"a working set of {size} bytes", "the least is 4K", "ws")
        if size > room:
            problem = f"a working set of {size >> 20} MiB is more than half the free memory"
            raise UsageError(problem, f"stay below {room >> 20} MiB", "ws")


def _size(text: str, whole: str) -> int:
    match = re.fullmatch(r"\s*(\d{1,9})\s*([kKmMgG]?)(?:i?[bB])?\s*", text, re.ASCII)
    if match is None:
        raise UsageError(f"--ws {whole}: {text!r} is not a size", "write it like 16K..1G or 32K,8M", "ws")
    return int(match[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[match[2].upper()]


def _room_bytes() -> int:
    """Half of what this process may still take."""
    from trimtab.machine.measures.cgroups import memory_limits

    spare = [limit - used for limit, used in memory_limits()]
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                spare.append(int(line.split()[1]) * 1024)
    return max(0, min(spare, default=describe().memory_bytes)) // 2
