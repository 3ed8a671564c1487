"""Large arrays that are used again and again, aligned for vector loads.

A fresh array of megabytes is fresh pages from the system, which cost more than the work done in them. Arrays
are kept by size class; what is not given back is simply forgotten.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGN = 64
_SMALLEST = 1 << 12
_KEPT_EACH = 4

Array = npt.NDArray[Any]


class Buffers:
    """A bounded store of arrays; any thread may take and give.

    Parameters
    ----------
    most_bytes : what is kept at most while nobody uses it
    """

    def __init__(self, most_bytes: int = 256 << 20) -> None:
        self._free: defaultdict[int, list[Array]] = defaultdict(list)
        self._most_bytes = most_bytes
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """An array of this shape with unspecified content; its data begin at a multiple of 64 bytes."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        size = max(_SMALLEST, 1 << max(0, count - 1).bit_length())
        with self._lock:
            raw = self._free[size].pop() if self._free[size] else None
            if raw is not None:
                self._kept_bytes -= size
        if raw is None:
            raw = np.empty(size + _ALIGN, np.uint8)
        start = -raw.ctypes.data % _ALIGN
        found: Array = raw[start : start + count].view(kind).reshape(shape)
        return found

    def give(self, array: Array | None) -> None:
        """Take an array back; nobody may use it any more. None and arrays from elsewhere are ignored."""
        raw = None if array is None else array.base  # numpy names the owner of the memory, not the last view
        if not isinstance(raw, np.ndarray) or raw.dtype != np.uint8 or raw.ndim != 1 or raw.base is not None:
            return
        size = raw.nbytes - _ALIGN
        if size < _SMALLEST or size & (size - 1):
            return
        with self._lock:
            if len(self._free[size]) < _KEPT_EACH and self._kept_bytes + size <= self._most_bytes:
                self._free[size].append(raw)
                self._kept_bytes += size

    @property
    def kept_bytes(self) -> int:
        """Held for the next who takes."""
        return self._kept_bytes
