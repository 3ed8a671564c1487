"""How a memory budget is spent: plain arithmetic over sizes that others state, before anything is loaded.

The promise is about the whole process: Python, weights, scratch memory and pages together never pass it.
Pages are memory only once they are written, so without a promise there may be many of them. This module
reads two numbers from the system, and otherwise only adds up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trimtab.engine.batch import PAGE_TOKENS
from trimtab.engine.pages import pages_for
from trimtab.errors import DoesNotFit, UsageError
from trimtab.machine.measures.cgroups import memory_limits

SMALLEST_CONTEXT = 2048
"""Without a wish, a budget that cannot hold one sequence of this length is refused."""
USUAL_CONTEXT = 8192
"""Without a wish, longer contexts are not planned for, whatever the model allows."""
USUAL_SEQUENCES = 8
"""Sequences of full length that the pages hold where memory is no concern."""
RESERVE_BYTES = 24 << 20
"""For what grows while it runs: requests and their texts, thread stacks, fragments of the heap."""
GRAMMARS_BYTES, GRAMMARS_TOKEN_BYTES = 24 << 20, 300
"""What grammars take from the pages when the first one comes: the library with what it keeps, and its view of
each token. Measured, rounded up."""
VARIES_MB = 8
"""The process is never twice of exactly the same size: a budget that is named must do at the next start.
Starts on a busy machine were up to 7 MB apart."""
OPEN_SHARE = 0.8
"""Without a promise, at most this share of the available memory is planned for."""

# Rows and wanted rows of a step, best first: what a small budget gives up is prefill speed.
STEPS = ((512, 64), (256, 64), (256, 32), (128, 32), (64, 16), (32, 8))
SCRATCH_SHARE = 0.25
"""A larger step may take this share of what weights leave, so that it does not starve the pages."""

_UNITS = {
    "": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9, "t": 10**12,
    "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What an engine will take, and what it can do with it.

    Parameters
    ----------
    context : most tokens of one request
    max_running : most requests in work at a time
    promised_bytes : the ceiling, None without a promise
    base_bytes : the process before the weights, its growth included
    """

    context: int
    num_pages: int
    max_rows: int
    max_wanted: int
    max_running: int
    promised_bytes: int | None
    base_bytes: int
    weights_bytes: int
    scratch_bytes: int
    pages_bytes: int

    @property
    def total_bytes(self) -> int:
        """What the process takes at most, every page written."""
        return self.base_bytes + self.weights_bytes + self.scratch_bytes + self.pages_bytes


def plan(
    memory_bytes: int | None,
    *,
    base_bytes: int,
    weights_bytes: int,
    scratch_bytes: Callable[[int, int], int],
    page_bytes: int,
    model_context: int,
    context: int | None = None,
    available_bytes: int | None = None,
    loading_bytes: int = 0,
    reserve_bytes: int = RESERVE_BYTES,
    lent_bytes: int = 0,
) -> EnginePlan:
    """Divide a budget.

    Parameters
    ----------
    memory_bytes : the promise; None takes what the machine can spare
    base_bytes : resident memory of the process now
    scratch_bytes : scratch memory of a step, by its rows and wanted rows
    context : tokens that one request must be able to have; by default what fits, up to a usual length
    available_bytes : what the machine can spare for this process to grow, None if unknown
    loading_bytes : what loading needs beside the weights, and gives back before the first page is written
    reserve_bytes : for the process's growth while it serves
    lent_bytes : what the pages may lose to something else; a context that nobody asked for leaves so much out

    Raises
    ------
    DoesNotFit : names the smallest budget that would do, and what it is made of
    UsageError : `context` is more than the model's own
    """
    if context is not None and context > model_context:
        hint = f"ask for at most {model_context}"
        raise UsageError(
            f"a context of {context} tokens is more than the model's {model_context}", hint, "context"
        )
    base = base_bytes + reserve_bytes
    ceiling = memory_bytes
    if ceiling is None and available_bytes is not None:
        ceiling = base_bytes + int(OPEN_SHARE * available_bytes)
    left = None if ceiling is None else ceiling - base - weights_bytes
    least_context = context or min(model_context, SMALLEST_CONTEXT)
    most_context = context or min(model_context, USUAL_CONTEXT)
    found = _largest_step(left, scratch_bytes, pages_for(least_context) * page_bytes, loading_bytes)
    if found is None:
        parts = {
            "the process": base,
            "weights": weights_bytes,
            "one step": scratch_bytes(*STEPS[-1]),
            f"{least_context} tokens of cache": pages_for(least_context) * page_bytes,
        }
        raise _refusal(
            parts, loading_bytes, ceiling or 0, memory_bytes is not None, page_bytes, least_context
        )
    rows, wanted = found
    scratch = scratch_bytes(rows, wanted)
    # A promise says what may be used; without one, as many pages as usual requests need.
    sequences = USUAL_SEQUENCES if memory_bytes is None else wanted
    pages = sequences * pages_for(most_context)
    if left is not None:
        pages = min(pages, (left - scratch) // page_bytes)
    lent = 0 if memory_bytes is None else -(-lent_bytes // page_bytes)
    lasting = max(pages_for(least_context), pages - lent)
    return EnginePlan(
        context=min(most_context, lasting * PAGE_TOKENS),
        num_pages=pages,
        max_rows=rows,
        max_wanted=wanted,
        max_running=wanted,
        promised_bytes=memory_bytes,
        base_bytes=base,
        weights_bytes=weights_bytes,
        scratch_bytes=scratch,
        pages_bytes=pages * page_bytes,
    )


def grammars_bytes(vocab_size: int) -> int:
    """What the first grammar takes, and keeps for all that follow."""
    return GRAMMARS_BYTES + GRAMMARS_TOKEN_BYTES * vocab_size


def parse_size(text: str) -> int:
    """Bytes of `400MB`, `1.5GiB` or `70000000`; MB is a million, MiB is 2**20.

    Raises
    ------
    UsageError : it is no size, or none that memory can have
    """
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([a-zA-Z]*)\s*", text)
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{text!r} is not a size", "write it like 400MB or 1.5GiB", "memory")
    size = round(float(match[1]) * factor)
    if not 0 < size < 2**63:
        raise UsageError(f"{text!r} is not a size that memory can have", "write it like 400MB", "memory")
    return size


def format_size(size: int) -> str:
    """A size for people, such as 412 MB or 1.5 GB."""
    if size < 10**9:
        return f"{-(-size // 10**6)} MB"
    return f"{size / 10**9:.1f} GB"


def resident_bytes() -> int:
    """Memory of this process now, by the kernel's count; 0 where it does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes(root: Path = Path("/")) -> int | None:
    """By how much this process may grow: what the machine has free, or less if its control group allows less.

    None where the system does not say.
    """
    spare = [] if (free := _meminfo(root)) is None else [free]
    spare.extend(max(0, limit - used) for limit, used in memory_limits(root))
    return min(spare, default=None)


def group_limit(root: Path = Path("/")) -> int | None:
    """What the control group of this process, a container's for example, may take at most; None without."""
    total = _meminfo(root, "MemTotal")
    limits = [limit for limit, _ in memory_limits(root) if total is None or limit < total]
    return min(limits, default=None)


def _largest_step(
    left: int | None, scratch_bytes: Callable[[int, int], int], least_pages_bytes: int, loading_bytes: int
) -> tuple[int, int] | None:
    """Rows and wanted rows of a step; None when not even the smallest one fits."""
    if left is None:
        return STEPS[0]
    if left < loading_bytes:
        return None
    for rows, wanted in STEPS:
        scratch = scratch_bytes(rows, wanted)
        modest = scratch <= SCRATCH_SHARE * left or (rows, wanted) == STEPS[-1]
        if modest and scratch + least_pages_bytes <= left:
            return rows, wanted
    return None


def _refusal(
    parts: dict[str, int], loading_bytes: int, ceiling: int, promised: bool, page_bytes: int, context: int
) -> DoesNotFit:
    base, weights, scratch, cache = parts.values()
    smallest = base + weights + max(loading_bytes, scratch + cache)
    spent = ", ".join(f"{name} {format_size(size)}" for name, size in parts.items())
    lines = [f"{spent}: the smallest budget that would do is {_flag(smallest)}"]
    shorter = 512
    if context > shorter and scratch + cache > loading_bytes:
        saved = cache - pages_for(shorter) * page_bytes
        lines.append(
            f"or `--context {shorter}` with {_flag(max(smallest - saved, base + weights + loading_bytes))}"
        )
    lines.append("`--kv-type int8` halves the cache")
    what = f"--memory {format_size(ceiling).replace(' ', '')}" if promised else "the memory of this machine"
    return DoesNotFit(f"{what} is too small for this model", "; ".join(lines), "memory")


def _flag(size: int) -> str:
    return f"`--memory {-(-size // 10**6) + VARIES_MB}MB`"


def _meminfo(root: Path, name: str = "MemAvailable") -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        values = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(values[name].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None
