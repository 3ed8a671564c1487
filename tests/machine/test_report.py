from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.errors import BadFile
from trimtab.machine.report import Report, versions


def make(**changes: object) -> Report:
    values: dict[str, object] = {
        "name": "speed", "claim": "It is fast.", "machine": {"processor": "x"},
        "versions": versions(other="1"),
        "command": ["trimtab", "bench"], "seeds": [1], "samples": {"a": [1.0, 2.0]}, "result": {"ratio": 2.0},
    }  # fmt: skip
    return Report(**{**values, **changes})  # type: ignore[arg-type]


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    report = make()
    path = report.save(tmp_path / "reports")
    assert path == tmp_path / "reports" / "speed.json"
    assert Report.load(path) == report
    assert [each.name for each in path.parent.iterdir()] == ["speed.json"]


def test_saving_replaces_the_old_report(tmp_path: Path) -> None:
    make().save(tmp_path)
    path = make(result={"ratio": 3.0}).save(tmp_path)
    assert Report.load(path).result == {"ratio": 3.0}


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = make().save(tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        make(result={"ratio": float("nan")}).save(tmp_path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"name": "x"}), "[" * 100_000])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(BadFile, match=r"bad\.json"):
        Report.load(path)
