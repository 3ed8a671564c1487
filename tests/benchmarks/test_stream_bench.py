"""The parts of `trimtab bench stream`: ratios of paired trials, and refusals that say what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trimtab.errors import UsageError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    from native import programs, rivals

    yield SimpleNamespace(programs=programs, rivals=rivals)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("peers", "native")]:
        del sys.modules[name]


def test_ratios_are_taken_inside_a_pair(shared: Any) -> None:
    """The machine doubles its speed after the first trial; the ratio of the pairs does not see that."""
    patterns = shared.rivals.PATTERNS
    rates = {
        "a": {each: [10.0, 20.0, 22.0] for each in patterns},
        "b": {each: [5.0, 10.0, 20.0] for each in patterns},
    }
    cells = shared.rivals.Cells(2, rates)
    assert cells.ratio("a", "b", "triad") == 2.0
    assert cells.geomean("a", "b") == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["openmp_stream", "par_stream", "parallel_for", "executors"])
def test_what_is_missing_is_named(shared: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.programs.shutil, "which", lambda _: None)
    monkeypatch.setattr(shared.programs.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(shared.programs, "REPOSITORY", FOLDER / "no such folder")
    arguments = {"executors": (print,), "parallel_for": ()}.get(name, (1024,))
    with pytest.raises(UsageError) as error:
        getattr(shared.programs, name)(*arguments)
    assert error.value.hint


def test_a_program_says_how_it_writes(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    listings = {
        "nt": "  401000: vmovntpd %zmm0,(%rax)\n",
        "copy": "  401000: call 1140 <memcpy@plt>\n  401005: vmovupd %ymm0,(%rax)\n",
        "plain": "  401000: vmovupd %ymm0,(%rax)\n",
    }
    monkeypatch.setattr(shared.programs.shutil, "which", lambda name: name)
    monkeypatch.setattr(shared.programs, "_run", lambda command: listings[command[-1]])
    found = {name: shared.programs.stores_of(Path(name)) for name in listings}
    assert found == {"nt": "vmovntpd", "copy": "memcpy for the copy", "plain": "plain stores"}
