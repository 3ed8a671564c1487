"""Round trips of empty work through what Python has at hand: torch's parallel_for, a thread pool."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from protocol import serve


class Regions:
    def torch(self, library: str, threads: int, count: int, batches: int) -> dict[str, Any]:
        import torch

        seconds = (ctypes.c_double * batches)()
        ctypes.CDLL(library).region_seconds(threads, count, batches, seconds)
        return {"seconds": list(seconds), "version": torch.__version__}

    def pool(self, threads: int, count: int, batches: int) -> dict[str, Any]:
        seconds = []
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(batches):
                start = time.perf_counter()
                for _ in range(count):
                    wait([pool.submit(_nothing) for _ in range(threads)])
                seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}


def _nothing() -> None:
    return None


if __name__ == "__main__":
    serve(Regions())
