"""Peaks and process costs, as far as a busy machine lets them be tested: what there is, in which order."""

from __future__ import annotations

import math

import pytest

from trimtab.machine.measures import gpu, peak, process
from trimtab.machine.probe import describe
from trimtab.machine.roofline import REGISTER


@pytest.fixture(scope="module")
def peaks() -> dict[tuple[str, str, int], float]:
    rows = peak.measure(quick=True)["rows"]
    assert all(row["n"] == 3 and math.isfinite(row["iqr"]) for row in rows)
    return {(row["unit"], row["class"], row["threads"]): row["median"] for row in rows}


def test_every_class_was_measured_with_every_number_of_threads(
    peaks: dict[tuple[str, str, int], float],
) -> None:
    counts = peak.thread_counts()
    assert counts[0] == 1
    assert counts[-1] == describe().usable
    for threads in counts:
        for unit in peak.PRODUCTS:
            for name in peak.ROWS:
                assert peaks[unit, name, threads] > 0
        for unit in ("int8", "float32"):
            assert peaks[unit, REGISTER, threads] > 0


def test_registers_are_a_ceiling_of_products(peaks: dict[tuple[str, str, int], float]) -> None:
    """A product runs the same instructions and loads besides; the clock may differ between the moments."""
    for (unit, name, threads), value in peaks.items():
        top = peaks.get((unit, REGISTER, threads))
        if name != REGISTER and top is not None:
            assert value < 1.2 * top


def test_vector_units_come_in_the_order_of_their_widths(peaks: dict[tuple[str, str, int], float]) -> None:
    if ("bf16", REGISTER, 1) in peaks:
        assert peaks["int8", REGISTER, 1] > peaks["bf16", REGISTER, 1] > peaks["float32", REGISTER, 1]


def test_thread_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for usable, counts in (
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (16, [1, 2, 4, 8, 16]),
        (24, [1, 2, 4, 8, 16, 24]),
    ):
        monkeypatch.setattr(peak, "describe", lambda usable=usable: type("M", (), {"usable": usable}))
        assert peak.thread_counts() == counts


def test_process_costs_are_there_and_torch_is_left_out_when_it_must_be_quick() -> None:
    found = process.measure(quick=True)
    costs = {row["name"]: row["seconds"] for row in found["rows"]}
    assert {"python", "trimtab --version", "import numpy", "fork", "page fault", "mmap"} <= set(costs)
    assert "import torch" in found["absent"]
    assert all(seconds > 0 for seconds in costs.values())
    assert costs["page fault"] < costs["python"]
    assert costs["mmap"] < costs["python"]


def test_no_gpu_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "missing", lambda: "the system shows no GPU that computes")
    assert gpu.measure() == {"present": False, "why": "the system shows no GPU that computes"}


@pytest.mark.gpu
def test_a_gpus_ceilings_are_plausible() -> None:
    if why := gpu.missing():
        pytest.skip(why)
    found = gpu.measure(quick=True)
    rows = {row["name"]: row["median"] for row in found["rows"]}
    assert found["present"]
    assert rows["matmul bf16"] > rows["matmul float32"] > 1e11
    assert rows["memory copy"] > rows["host to device"] > 1e8
    assert rows["launch in a graph"] < rows["launch"] < rows["launch and wait"] < 1e-3
    names = {"matmul bf16", "matmul float32", "matmul int8", "matmul fp8"}
    assert names <= set(rows) | set(found["absent"])
