"""Memory that was in use only for a moment is seen, and what was given back is not counted as in use."""

from __future__ import annotations

import time

import numpy as np

from trimtab.train.watch import Memory, Watch

SIZE = 64 << 20


def test_a_moment_of_much_memory_is_seen() -> None:
    before = Memory.now()
    with Watch() as watch:
        block = np.ones(SIZE, np.uint8)
        time.sleep(0.1)
        del block
        time.sleep(0.05)
    grown = watch.most - before
    assert 0.9 * SIZE < grown.resident - grown.spare < 1.3 * SIZE
    assert watch.highest >= watch.most.resident
