"""Rows of a GPU: read from a made-up program that prints like the real one; no figure here was measured."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import NotMeasured
from trimtab.machine.micro import gpu
from trimtab.machine.micro.rows import Row, from_dict

DEVICE = dict.fromkeys(gpu.DEVICE, 1) | {"device": "made up", "capability": "9.0"}


def row(name: str, suite: str = "throughput", **more: Any) -> Row:
    fields: dict[str, Any] = {
        "name": name, "suite": suite, "width_bits": 0, "cores": 1, "ns": 10.0, "cycles": 18.0, "rate": 1e12,
        "unit": "op/s", "n": 7, "median_ns": 10.0, "iqr_ns": 0.1, "method": "made up", "detail": {},
    }  # fmt: skip
    return from_dict(fields | more)


ROWS = [
    row("load shared", "latency", rate=0.0, unit=""),
    row("mma bf16", rate=4e14, cycles=None, detail={"n": 8, "data": "random"}),
    row("wgmma bf16 ss", rate=6e14, detail={"n": 128, "data": "random"}),
    row("wgmma bf16 ss", rate=7.2e14, detail={"n": 128, "data": "zeros"}),
    row("vimax3_s32", "latency", cycles=0.03),
]


@pytest.fixture
def program(tmp_path: Path) -> Any:
    def write(lines: list[str], status: int = 0, complaint: str = "") -> Path:
        (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
        path = tmp_path / "made-up-gpu"
        path.write_text(
            f"#!{sys.executable}\nimport sys\nsys.stdout.write(open({str(tmp_path / 'lines')!r}).read())\n"
            f"sys.stderr.write({complaint!r})\nsys.exit({status})\n"
        )
        path.chmod(0o755)
        return path

    return write


def lines_of(rows: list[Row]) -> list[str]:
    return [json.dumps(each) for each in (DEVICE, *(row.as_dict() for row in rows))]


def test_rows_come_in_and_what_was_not_done_is_refused(program: Any) -> None:
    said: list[str] = []
    found = gpu.measure(program(lines_of(ROWS)), say=said.append)
    assert found["device"]["device"] == "made up"
    assert [from_dict(each) for each in found["rows"]] == ROWS[:4]
    assert [each["name"] for each in found["refused"]] == ["vimax3_s32"]
    assert found["peaks"] == {"bf16": {"rate": 6e14, "kind": "wgmma bf16 ss n=128"}}
    assert found["zeros"] == {"wgmma bf16 ss n=128": pytest.approx(1.2)}
    assert said == ["made up, 1 processors", "load shared", "mma bf16", "wgmma bf16 ss", "vimax3_s32"]


def test_a_program_that_fails_is_no_measurement(program: Any) -> None:
    with pytest.raises(NotMeasured, match=r"ended with 1 after 5 rows: element .0, 1. is 3, not 4"):
        gpu.measure(program(lines_of(ROWS), 1, "element (0, 1) is 3, not 4"))
    with pytest.raises(NotMeasured, match="after 0 rows: no reason given"):
        gpu.measure(program(lines_of([])))
    with pytest.raises(NotMeasured, match=r"no program `.*nowhere`"):
        gpu.measure(Path("/nowhere"))


@pytest.mark.parametrize(
    "line", ["", "{", "[]", '{"name": "a"}', json.dumps(ROWS[0].as_dict() | {"ns": "fast"})]
)
def test_what_is_no_row_is_refused(line: str, program: Any) -> None:
    with pytest.raises(NotMeasured, match="is no row"):
        gpu.measure(program([*lines_of(ROWS), line, *lines_of(ROWS)]))


@given(st.text(max_size=200) | st.builds(json.dumps, st.recursive(st.none() | st.floats(), st.lists)))
def test_any_line_is_a_row_or_refused(line: str) -> None:
    with pytest.raises(NotMeasured):
        gpu._row(line)


@given(st.dictionaries(st.sampled_from(sorted(ROWS[0].as_dict())), st.integers() | st.none() | st.text()))
def test_rows_with_other_fields_are_rows_or_refused(changes: dict[str, Any]) -> None:
    try:
        found = gpu._row(json.dumps(ROWS[0].as_dict() | changes))
    except NotMeasured:
        return
    assert isinstance(gpu.possible(found), bool)


@pytest.mark.parametrize("figure", ["ns", "rate", "median_ns"])
def test_figures_that_are_none_are_not_possible(figure: str) -> None:
    assert not gpu.possible(row("a", **{figure: math.nan}))
    assert not gpu.possible(row("a", **{figure: -1.0}))
