"""How a memory budget is spent: plain arithmetic over sizes that others state, before anything is loaded.

The promise is about the whole process: Python, weights, scratch memory and pages together never pass it.
Pages are memory only once they are written, so without a promise there may be many of them. This module
reads two numbers from the system, and otherwise only adds up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trimtab.engine.batch import PAGE_TOKENS
from trimtab.engine.pages import pages_for
from trimtab.errors import DoesNotFit, UsageError

SMALLEST_CONTEXT = 2048
"""Without a wish, a budget that cannot hold one sequence of this length is refused."""
USUAL_CONTEXT = 8192
"""Without a wish, longer contexts are not planned for, whatever the model allows."""
USUAL_SEQUENCES = 8
"""Sequences of full length that the pages hold where memory is no concern."""
RESERVE_BYTES = 32 << 20
"""For what grows while it runs: requests and their texts, thread stacks, fragments of the heap."""
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
    least_context = context or min(model_context, SMALLEST_CONTEXT)
    most_context = context or min(model_context, USUAL_CONTEXT)
    least_pages = pages_for(least_context)
    most_pages = USUAL_SEQUENCES * pages_for(most_context)

    left = None if ceiling is None else ceiling - base - weights_bytes
    for place, (rows, wanted) in enumerate(STEPS):
        scratch = scratch_bytes(rows, wanted)
        if left is None:
            pages = most_pages
        else:
            if left < loading_bytes:
                break
            pages = min(most_pages, (left - scratch) // page_bytes)
            smallest = place == len(STEPS) - 1
            if pages < least_pages or (scratch > SCRATCH_SHARE * left and not smallest):
                continue
        if memory_bytes is not None and context is None:
            most_pages = (left or 0) // page_bytes  # a promise may be used to the full
            pages = min(most_pages, (left - scratch) // page_bytes if left is not None else most_pages)
            pages = min(pages, wanted * pages_for(most_context))
        return EnginePlan(
            context=min(most_context, pages * PAGE_TOKENS),
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
    raise _refusal(
        ceiling or 0, memory_bytes is not None, base, weights_bytes, scratch_bytes(*STEPS[-1]),
        least_pages * page_bytes, loading_bytes, least_context,
    )  # fmt: skip
