"""Figures in the documents come out of Reports and say where from."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from trimtab.machine.report import Report

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_figures", ROOT / "docs" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Invented figures, for the shape only.
REPORT = Report(
    name="decode",
    claim="One sequence is faster here.",
    machine={"processor": "Some CPU", "usable": 2},
    versions={},
    command=["trimtab", "bench", "decode"],
    seeds=[1],
    samples={"trimtab": [3.0]},
    result={
        "ratio": 2.125,
        "unit": "x tokens/s of the fastest peer",
        "limit_fraction": 0.66,
        "quality": {"perplexity_ratio": 1.001},
        "table": [{"who": "trimtab", "tok/s": 300.0}, {"who": "peer | best", "tok/s": 141.2}],
        "absent": {"other": "not installed"},
        "targets": [
            {"what": "ratio", "value": 2.125, "wanted": "at least 2", "met": True},
            {"what": "limit", "value": 0.5, "wanted": "at least 0.65", "met": False},
        ],
    },
    date="2026-01-02T03:04:05+00:00",
)


def test_the_block_has_a_row_a_report(figures: ModuleType) -> None:
    text = figures.block([REPORT])
    row = "| [decode](docs/figures.md#decode) | 2.12 x tokens/s of the fastest peer | 66% | 1 of 2 |"
    assert row in text
    assert "Some CPU, 2 in use; 2026-01-02." in text


def test_the_page_hides_no_missed_target_and_no_absent_peer(figures: ModuleType) -> None:
    text = figures.page([REPORT])
    assert "**missed**: limit 0.5 (at least 0.65)" in text
    assert "other did not run: not installed" in text
    assert "| peer \\| best | 141 |" in text
    assert "`trimtab bench decode`" in text


def test_reports_that_say_little_are_shown_too(figures: ModuleType) -> None:
    bare = Report("x", "", {"processor": "p", "usable": 1}, {}, [], [], {}, {})
    assert "| [x](docs/figures.md#x) |  | – | – |" in figures.block([bare]).replace(
        "| – | – | – |", "|  | – | – |"
    )
    assert "## x" in figures.page([bare])


def test_a_chart_is_drawn_and_shown(figures: ModuleType) -> None:
    chart = {
        "x": "requests a second", "y": "share in <time>", "line": 0.99,
        "series": {"trimtab": [[1.0, 1.0], [4.0, 0.99], [8.0, 0.2]], "peer & co": [[0.5, 1.0]], "none": []},
    }  # fmt: skip
    report = replace(REPORT, name="serve", result={**REPORT.result, "chart": chart})
    assert "](figures/serve.svg)" in figures.page([report])
    assert figures.charts([REPORT]) == {}
    ((path, text),) = figures.charts([report]).items()
    assert path.name == "serve.svg"
    drawn = ElementTree.fromstring(text)
    names = [node.text for node in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"trimtab", "peer & co", "share in <time>", "1", "2", "5", "100%"} <= set(names)
    circles = list(drawn.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == 4
    heights = [float(node.attrib["cy"]) for node in circles[:3]]
    assert heights == sorted(heights)  # a smaller share lies lower


def test_nothing_measured_is_said(figures: ModuleType) -> None:
    assert figures.block([]) == figures.NOTHING
    assert figures.NOTHING in figures.page([])


def test_a_readme_without_marks_is_an_error(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("no marks\n", encoding="utf-8")
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["figures.py"])
    assert figures.main() == 1
    assert "lost its marks" in capsys.readouterr().err
