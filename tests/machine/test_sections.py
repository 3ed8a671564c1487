"""The run through the sections: each is kept as soon as it is there, and one that fails is said to."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab import _native
from trimtab.errors import Busy, UnknownName, UsageError
from trimtab.machine import quiet, sections
from trimtab.machine.profile import Profile, Section
from trimtab.machine.sections import MEASURERS, SECTIONS, Measurer, chosen, kernel_choice, measure


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the measurers by functions, one a name; `timed` ones see a quiet machine."""

    def fill(**functions: Callable[..., Any]) -> None:
        module = types.ModuleType("made_up_measurers")
        entries = []
        for name, run in functions.items():
            setattr(module, name, run)
            entries.append(Measurer(f"made_up_measurers:{name}", tuple(name.split("_and_")), name, 1, 1))
        monkeypatch.setitem(sys.modules, "made_up_measurers", module)
        monkeypatch.setattr(sections, "MEASURERS", tuple(entries))
        monkeypatch.setattr(sections, "SECTIONS", {n: one for one in entries for n in one.sections})
        monkeypatch.setattr(quiet, "insist", lambda *_: quiet.Look(0.0, None))
        monkeypatch.setattr(quiet, "wait", lambda *_: None)

    return fill


def gives(**data: Any) -> Callable[..., dict[str, Any]]:
    return lambda **_: data


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path, table: Callable[..., None]) -> None:
    def interrupted(**_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    table(a=gives(x=1), b=interrupted, c=gives(x=3))
    path = tmp_path / "p.json"
    with pytest.raises(KeyboardInterrupt):
        measure(path=path)
    assert {name: each.data for name, each in Profile.load(path).sections.items()} == {
        "a": {"x": 1, "quick": False}
    }
    measure(path=path, only=["c"], quick=True)
    assert Profile.load(path).sections["c"].data == {"x": 3, "quick": True}
    assert set(Profile.load(path).sections) == {"a", "c"}


def test_one_measurer_may_yield_several_sections(tmp_path: Path, table: Callable[..., None]) -> None:
    table(a_and_b=gives(a={"x": 1}, b={"x": 2}), c=gives())
    outcomes = measure(path=tmp_path / "p.json", only=["b"])
    assert [outcome.names for outcome in outcomes] == [("a", "b")]
    assert Profile.load(tmp_path / "p.json").need("b", allow_noisy=True)["x"] == 2


def test_what_cannot_be_measured_is_said_and_the_rest_goes_on(
    tmp_path: Path, table: Callable[..., None]
) -> None:
    def refuses(**_: Any) -> dict[str, Any]:
        raise UsageError("the disk is full")

    table(a=refuses, b=gives(x=1))
    found = measure(path=tmp_path / "p.json")
    assert [outcome.missing for outcome in found] == ["the disk is full", ""]
    assert set(Profile.load(tmp_path / "p.json").sections) == {"b"}


def test_a_part_that_is_not_built_is_skipped_by_name(
    tmp_path: Path, table: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    table(b=gives(x=1))
    absent = Measurer("trimtab.machine.not_there:measure", ("a",), "a", 1, 1)
    monkeypatch.setattr(sections, "MEASURERS", (absent, *sections.MEASURERS))
    found = measure(path=tmp_path / "p.json")
    assert "not part of this build" in found[0].missing
    assert found[1].sections


def test_a_failure_inside_a_measurer_is_not_taken_for_a_missing_part(
    tmp_path: Path, table: Callable[..., None]
) -> None:
    def broken(**_: Any) -> dict[str, Any]:
        raise AttributeError("a mistake")

    table(a=broken)
    with pytest.raises(AttributeError, match="a mistake"):
        measure(path=tmp_path / "p.json")


def test_a_busy_machine_is_refused_before_anything_runs(
    tmp_path: Path, table: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    table(a=lambda **_: ran.append(1) or {})

    def busy(*_: object) -> quiet.Look:
        raise Busy("too busy")

    monkeypatch.setattr(quiet, "insist", busy)
    with pytest.raises(Busy):
        measure(path=tmp_path / "p.json")
    assert not ran
    assert not (tmp_path / "p.json").exists()
    measure(path=tmp_path / "p.json", force=True)
    assert ran


def test_a_disturbed_section_is_measured_once_more_and_the_calmer_kept(
    tmp_path: Path, table: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    table(a=lambda **_: {"x": runs.append(1) or len(runs)})
    noise = iter([0.9, 0.1])

    class Watch:
        def section(self, data: Any) -> Section:
            return Section(data, "2026-01-01T00:00:00+00:00", 1.0, 0.0, next(noise))

    class watched:
        def __enter__(self) -> Watch:
            return Watch()

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(sections, "watched", watched)
    (found,) = measure(path=tmp_path / "p.json")
    assert found.sections["a"].data["x"] == 2
    assert not found.sections["a"].noisy


def test_unknown_sections_are_refused_with_what_there_is() -> None:
    with pytest.raises(UnknownName, match="`speed`") as error:
        chosen(["peak", "speed"])
    assert "bandwidth" in error.value.hint
    assert [one.sections[0] for one in chosen(["disk", "topology"])] == ["topology", "disk"]


def test_the_table_is_whole() -> None:
    assert len(SECTIONS) == sum(len(one.sections) for one in MEASURERS)
    assert sum(one.quick_seconds for one in MEASURERS) <= 20
    assert sum(one.seconds for one in MEASURERS) <= 125


@pytest.mark.parametrize("name", ["topology", "limits", "gpu"])
def test_what_is_only_read_is_measured_here(tmp_path: Path, name: str) -> None:
    (found,) = measure(only=[name], path=tmp_path / "p.json", force=True, quick=True)
    assert not found.missing
    # What is only read is as good on a busy machine.
    assert Profile.load(tmp_path / "p.json").need(name, allow_noisy=name == "gpu")


def test_the_chosen_kernels_are_explained() -> None:
    rows = kernel_choice()
    states = [row["state"] for row in rows]
    assert states.count("chosen") == 1
    assert [row["name"] for row in rows if row["state"] != "lacks"] == _native.kernel_sets()
    for row in rows:
        assert set(row["missing"]) <= set(row["needs"])
        assert (row["state"] == "lacks") == bool(row["missing"])
    # Best first: what comes before the chosen one cannot run here.
    assert set(states[: states.index("chosen")]) <= {"lacks"}
    assert rows[-1]["name"] == "portable"
    assert rows[-1]["needs"] == []


@pytest.mark.slow
def test_a_quick_run_is_quick(tmp_path: Path) -> None:
    import time

    start = time.monotonic()
    found = measure(quick=True, path=tmp_path / "p.json", force=True)
    assert time.monotonic() - start < 30
    assert {name for one in found if one.sections for name in one.names} == set(SECTIONS)
