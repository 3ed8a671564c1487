from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from trimtab.errors import UnknownName, UsageError
from trimtab.machine import bench
from trimtab.machine.report import Report

FILE = '''"""Two is more
than one.

And this is how it was found.
"""

from shared import ANSWER
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.report import Report


def run(options: BenchOptions) -> Report:
    targets = [target("two", 2.0, least=1.5), target("wait", 3.0, most=1.0)]
    result = {"ratio": 2.0, "unit": "x", "targets": targets, "samples": [ANSWER],
              "table": [{"who": "a", "speed": 1234.5678}, {"who": "bb", "note": None}],
              "absent": {"c": "gone"}}
    return Report("two", "Two is more than one.", {}, {}, [], [options.rounds], {}, result)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "two.py").write_text(FILE)
    (tmp_path / "peers").mkdir()
    (tmp_path / "shared.py").write_text('"""Not for --list."""\nANSWER = 42\n')
    return tmp_path


def test_claims_are_read_without_running_anything(folder: Path) -> None:
    (folder / "broken.py").write_text('"""It fails."""\nraise SystemExit\n')
    assert bench.discover(folder)["two"].claim == "Two is more than one."


def test_a_benchmark_runs_and_leaves_its_report(folder: Path) -> None:
    report = bench.run("two", bench.BenchOptions(repeats=3), folder)
    assert Report.load(folder / "reports" / "two.json") == report
    assert report.seeds == [3]


def test_the_report_goes_where_the_user_says(folder: Path, tmp_path: Path) -> None:
    bench.run("two", bench.BenchOptions(out=tmp_path / "mine"), folder)
    assert (tmp_path / "mine" / "two.json").is_file()


def test_an_unknown_name_is_answered_with_the_nearest(folder: Path) -> None:
    with pytest.raises(UnknownName, match="`two`"):
        bench.run("tow", bench.BenchOptions(), folder)


def test_the_last_line_is_json_and_the_table_is_aligned(folder: Path) -> None:
    *lines, last = bench.render(bench.run("two", bench.BenchOptions(), folder))
    assert json.loads(last)["ratio"] == 2.0
    assert "  who  speed  note" in lines
    assert "  a    1235   –" in lines
    assert "  c: did not run: gone" in lines
    assert "  met    two: 2 (at least 1.5)" in lines
    assert "  MISSED wait: 3 (at most 1)" in lines


def test_no_folder_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIMTAB_BENCHMARKS", str(tmp_path))
    with pytest.raises(UsageError, match="no benchmarks"):
        bench.folder()


def test_options_are_closed_and_checked() -> None:
    with pytest.raises(ValidationError):
        bench.BenchOptions(repeats=0)
    with pytest.raises(ValidationError):
        bench.BenchOptions(speed=9)  # type: ignore[call-arg]
    assert bench.BenchOptions(quick=True, repeats=9).rounds == 1
    assert bench.BenchOptions(only=" a, b,").wanted == {"a", "b"}
