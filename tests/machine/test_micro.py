"""The suites of microbenchmarks: whole sections, in the one format, with figures that can be true."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trimtab.errors import UsageError
from trimtab.machine import micro
from trimtab.machine.micro import memory, units
from trimtab.machine.micro.rows import LEAST_CYCLES, Row, from_dict


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "CLOSE_BYTES", 2**21)
        return micro.measure(quick=True)


def rows_of(section: dict[str, Any]) -> list[Row]:
    return [from_dict(row) for row in section["rows"]]


def test_every_section_is_there_and_is_json(found: dict[str, dict[str, Any]]) -> None:
    assert set(found) == {"peak_units", "latency", "sync"} == set(micro.sections_of("all"))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_units_have_latencies_and_rates_on_one_core_and_on_all(found: dict[str, dict[str, Any]]) -> None:
    data = found["peak_units"]
    rows = rows_of(data)
    cores = {row.cores for row in rows if row.suite == "throughput"}
    assert cores == {1, len(units.processors())}
    for row in rows:
        assert row.cycles is not None
        assert row.cycles >= LEAST_CYCLES
        assert row.n >= 20
        assert row.ns > 0
        assert row.method
        assert (row.rate > 0) == (row.suite == "throughput")
    assert 1e8 < data["frequency_hz"]["one"] < 1e10
    by_label = {(row.label, row.cores): row for row in rows if row.suite == "latency"}
    assert ("add_i64 64", 1) in by_label


def test_peaks_are_of_the_rows(found: dict[str, dict[str, Any]]) -> None:
    data = found["peak_units"]
    rates = {row.rate for row in rows_of(data)}
    for peak in data["peaks"].values():
        assert peak["one"] in rates
        assert peak["all"] in rates


def test_the_ladder_has_curves_levels_and_what_the_system_says(found: dict[str, dict[str, Any]]) -> None:
    data = found["latency"]
    assert {"random_2m", "random_4k"} <= set(data["curves"])
    for curve in data["curves"].values():
        assert [point["bytes"] for point in curve] == sorted(point["bytes"] for point in curve)
        assert all(point["ns"] > 0 and point["n"] >= 5 for point in curve)
    assert data["levels"]
    assert 0 <= data["huge_share"] <= 1


def test_events_are_in_the_same_format(found: dict[str, dict[str, Any]]) -> None:
    rows = rows_of(found["sync"])
    assert {row.suite for row in rows} == {"sync", "os"}
    assert {"atomic_add", "syscall", "page_fault", "pipe", "python_call"} <= {row.name for row in rows}


def test_a_suite_alone_is_no_whole_section() -> None:
    assert micro.sections_of("memory") == ["latency"]
    assert micro.sections_of("latency") == []
    assert micro.sections_of("all", gpu=True) == ["gpu_units"]
    with pytest.raises(UsageError, match="--suite sync"):
        micro.sections_of("sync", gpu=True)
    rows = rows_of(micro.measure("latency", quick=True)["peak_units"])
    assert {row.suite for row in rows} == {"latency"}


def test_no_such_suite() -> None:
    with pytest.raises(UsageError, match="--suite speed"):
        micro.measure("speed")


def test_a_loop_that_was_dropped_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel whose steps cost nothing is not in the table of results but among the refused."""
    real = units.latencies

    def dropped(*arguments: Any) -> list[Row]:
        from dataclasses import replace

        first, *rest = real(*arguments)
        return [replace(first, cycles=0.03), *rest]

    monkeypatch.setattr(units, "latencies", dropped)
    data = units.measure(throughput=False, quick=True, say=lambda _: None)
    [refused] = data["refused"]
    assert refused["cycles"] == 0.03
    assert refused["name"] not in {row["name"] for row in data["rows"]}
