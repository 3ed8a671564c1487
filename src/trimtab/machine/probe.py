"""What this machine is, and its measured ceilings: memory read rate and arithmetic peaks.

The ceilings say how far a program is from the best that any program could do here. The read rate of a shared
machine changes by half within minutes, so it is measured beside every figure that is compared with it.
"""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError

BUFFER_BYTES = 256 * 2**20
"""Read by the probe: past every cache, and small enough to fill in a moment."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the system says about itself."""

    processor: str
    processors: int
    usable: int
    features: tuple[str, ...]
    caches: dict[str, str]
    memory_bytes: int
    system: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Measured ceilings with a number of threads.

    Parameters
    ----------
    read_bytes_per_s : median over passes through memory that no cache holds
    best_read_bytes_per_s : the fastest pass, what an undisturbed moment gives
    int8_ops_per_s, float_ops_per_s : register-only peaks; a multiply-add is two operations
    int8_kind, float_kind : the instructions that reached them
    """

    threads: int
    read_bytes_per_s: float
    best_read_bytes_per_s: float
    int8_ops_per_s: float
    int8_kind: str
    float_ops_per_s: float
    float_kind: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# Those a kernel may be chosen by.
_FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512vbmi", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp",
    "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


def describe() -> Machine:
    """What this machine is; nothing is measured."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        processor=info.get("model name") or platform.processor() or platform.machine(),
        processors=os.cpu_count() or 1,
        usable=usable,
        features=tuple(name for name in _FEATURES if name in flags),
        caches=_caches(),
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def measure(threads: int | None = None, seconds: float = 0.3) -> Limits:
    """Measure the ceilings; takes about three times `seconds` and 256 MiB of memory meanwhile.

    Raises
    ------
    UsageError : an impossible number of threads or seconds
    """
    from trimtab import _native

    count = threads or describe().usable
    try:
        rates = _native.read_rates(BUFFER_BYTES, count, seconds)
        int8, int8_kind = _native.int8_peak(count, seconds)
        wide, wide_kind = _native.float_peak(count, seconds)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Limits(count, statistics.median(rates), max(rates), int8, int8_kind, wide, wide_kind)


def resident_bytes(process: int | str = "self", key: str = "VmRSS") -> int:
    """Memory of a process by the kernel's count: `VmRSS` now, `VmHWM` at most so far; 0 when it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def family(process: int) -> list[int]:
    """A process and all it started, by number."""
    members = [process]
    for member in members:  # grows while it is walked
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                members += [int(child) for child in task.read_text(encoding="ascii").split()]
            except OSError:
                continue
    return members


def _cpuinfo() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> dict[str, str]:
    found: dict[str, str] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found[f"L{level}{ {'Data': 'd', 'Instruction': 'i'}.get(kind, '') }"] = size
    return found


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
