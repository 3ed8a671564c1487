"""A GPU's ceilings, through torch: products by type, memory, the bus to the host, the cost of a launch.

Where there is no GPU, or no torch, the section says so, which is a result too. Times are those of the
device's own clock (events); a product's inputs are random, because zeros draw less power and run faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from trimtab.machine.sampling import in_turns, summary

SIDE, QUICK_SIDE = 8192, 4096
COPY_BYTES = 1 << 30


def measure(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The section `gpu` of the profile.

    Returns
    -------
    `present`, and `why` when there is none. Otherwise the device's name and memory, and `rows`: name,
    unit, median with spread; `absent`: what this device or this torch cannot do
    """
    if why := missing():
        return {"present": False, "why": why}
    import torch

    say("compiling and warming up")
    device = torch.device("cuda", 0)
    rounds = 3 if quick else 9
    cases: dict[str, tuple[str, Callable[[], float]]] = {}
    absent: dict[str, str] = {}
    _products(torch, device, QUICK_SIDE if quick else SIDE, cases, absent)
    _memory(torch, device, COPY_BYTES >> 2 if quick else COPY_BYTES, cases)
    _launches(torch, device, cases)
    say(f"{len(cases)} figures, {rounds} times in turns")
    found = in_turns({name: run for name, (_, run) in cases.items()}, rounds)
    properties = torch.cuda.get_device_properties(device)
    rows = [{"name": name, "unit": cases[name][0]} | summary(values) for name, values in found.items()]
    return {
        "present": True,
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "processors": properties.multi_processor_count,
        "devices": torch.cuda.device_count(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "state": _nvml(),
        "rows": rows,
        "absent": absent,
    }


def missing() -> str:
    """Why there is no GPU to measure; empty when there is one."""
    import importlib.util
    from pathlib import Path

    # Asked first, because to import torch takes seconds. WSL has its GPU under a name of its own.
    marks = ("dev/nvidiactl", "dev/nvidia0", "dev/kfd", "dev/dxg")
    if not any((Path("/") / mark).exists() for mark in marks):
        return "the system shows no GPU that computes"
    if importlib.util.find_spec("torch") is None:
        return "there is a GPU, but torch, through which it is measured, is not installed"
    import torch

    if not torch.cuda.is_available():
        built = "was built without CUDA" if torch.version.cuda is None else "sees no CUDA device"
        return f"torch {torch.__version__} {built}"
    return ""


def _products(
    torch: Any,
    device: Any,
    side: int,
    cases: dict[str, tuple[str, Callable[[], float]]],
    absent: dict[str, str],
) -> None:
    """Square products of each type, in operations a second."""
    ops = 2.0 * side**3
    left = torch.randn(side, side, device=device)
    right = torch.randn(side, side, device=device)
    one = torch.ones((), device=device)

    def scaled(kind: Any) -> Callable[[], Any]:
        a, b = left.to(kind), right.to(kind).t().contiguous().t()  # the second one by columns, as it must be
        return lambda: torch._scaled_mm(a, b, one, one, out_dtype=torch.bfloat16)

    def plain(kind: Any) -> Callable[[], Any]:
        a, b = left.to(kind), right.to(kind)
        return lambda: a @ b

    def integer() -> Callable[[], Any]:
        a, b = ((each * 40).clamp(-127, 127).to(torch.int8) for each in (left, right))
        columns = b.t().contiguous().t()
        return lambda: torch._int_mm(a, columns)

    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "matmul bf16": partial(plain, torch.bfloat16),
        "matmul float32": partial(plain, torch.float32),
        "matmul int8": integer,
        "matmul fp8": lambda: scaled(torch.float8_e4m3fn),
    }
    for name, make in makers.items():
        try:
            product = make()
            product()
            torch.cuda.synchronize()
        except (RuntimeError, AttributeError, TypeError, ValueError) as error:
            absent[name] = (str(error).strip() or type(error).__name__).splitlines()[0]
            continue
        cases[name] = ("operations/s", partial(_rate, torch, product, ops))


def _memory(torch: Any, device: Any, size: int, cases: dict[str, tuple[str, Callable[[], float]]]) -> None:
    """Device memory, counted as bytes read plus bytes written; the bus, in bytes that crossed it."""
    here = torch.empty(size // 4, dtype=torch.float32, device=device).normal_()
    there = torch.empty_like(here)
    cases["memory copy"] = ("bytes/s", lambda: 2 * size / _seconds(torch, lambda: there.copy_(here)))
    cases["memory write"] = ("bytes/s", lambda: size / _seconds(torch, lambda: there.fill_(1.0)))
    cases["memory read"] = ("bytes/s", lambda: size / _seconds(torch, lambda: here.sum()))
    crossing = min(size, 256 << 20) // 4
    host = torch.empty(crossing, dtype=torch.float32, pin_memory=True).fill_(1.0)
    on_device = here[:crossing]
    moved = 4 * crossing
    cases["host to device"] = (
        "bytes/s", lambda: moved / _seconds(torch, lambda: on_device.copy_(host, non_blocking=True)),
    )  # fmt: skip
    cases["device to host"] = (
        "bytes/s", lambda: moved / _seconds(torch, lambda: host.copy_(on_device, non_blocking=True)),
    )  # fmt: skip


def _rate(torch: Any, work: Callable[[], Any], amount: float) -> float:
    return amount / _seconds(torch, work)


def _launches(torch: Any, device: Any, cases: dict[str, tuple[str, Callable[[], float]]]) -> None:
    """What one small kernel costs: in a row, waited for, and inside a recorded graph."""
    tiny, times = torch.zeros(1, device=device), 500

    def in_a_row() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            tiny.add_(1.0)
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / times

    def waited() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times // 10):
            tiny.add_(1.0)
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / (times // 10)

    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # a graph is recorded after a first run beside the main stream
        tiny.add_(1.0)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(100):
            tiny.add_(1.0)

    cases["launch"] = ("s", in_a_row)
    cases["launch and wait"] = ("s", waited)
    cases["launch in a graph"] = ("s", lambda: float(_seconds(torch, graph.replay, times=5)) / 100)


def _seconds(torch: Any, work: Callable[[], Any], least_s: float = 0.02, times: int = 1) -> float:
    """Device seconds of one piece of work, out of as many as take `least_s`."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    while True:
        torch.cuda.synchronize()
        start.record()
        for _ in range(times):
            work()
        end.record()
        torch.cuda.synchronize()
        took = float(start.elapsed_time(end)) / 1e3
        if took >= least_s:
            return took / times
        times = max(2 * times, int(1.1 * times * least_s / max(took, 1e-6)))


def _nvml() -> dict[str, Any]:
    """Clocks, power and temperature as the driver tells them; empty where nobody can be asked."""
    try:
        import torch

        return {
            "sm_mhz": torch.cuda.clock_rate(),
            "power_w": torch.cuda.power_draw() / 1e3,
            "temperature_c": torch.cuda.temperature(),
        }
    except (ImportError, RuntimeError, OSError, AttributeError, ModuleNotFoundError):
        return {}  # torch asks through pynvml, which comes with neither
