"""Traces are read or refused by line, mixes repeat, and sums are those of the requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import BadFile, NotMeasured, UnknownName
from trimtab.evaluate import workload
from trimtab.evaluate.workload import Request
from trimtab.machine.requests.model import BatchFit, PromptCost, RequestModel

MODEL = RequestModel(
    "m", "e", {}, {b: BatchFit(b, PromptCost.of({1: 0.01, 1000: 1.0}, {}), 0.002 * b, 0.0) for b in (1, 2)}
)


def write(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_trace_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        {"prompt_tokens": 5, "output_tokens": 3, "time": 1},
        "",
        {"prompt_tokens": 1, "output_tokens": 1, "n": 4},
    )
    assert workload.read_trace(path) == [Request(5, 3), Request(1, 1, 4)]


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", "3", "{}", "\x00", "[" * 5000,
        '{"prompt_tokens": 0, "output_tokens": 1}', '{"prompt_tokens": 1.5, "output_tokens": 1}',
        '{"prompt_tokens": true, "output_tokens": 1}', '{"prompt_tokens": 1e99, "output_tokens": 1}',
        '{"prompt_tokens": 1, "output_tokens": 1, "n": 0}',
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "t.jsonl", {"prompt_tokens": 5, "output_tokens": 3}, line)
    with pytest.raises(BadFile, match="line 2"):
        workload.read_trace(path)


@given(st.binary(max_size=300))
def test_no_file_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadFile):
        workload.read_trace(path)


def test_no_file_and_no_request(tmp_path: Path) -> None:
    with pytest.raises(BadFile):
        workload.read_trace(tmp_path / "none")
    with pytest.raises(BadFile, match="no request"):
        workload.read_trace(write(tmp_path / "t", "", ""))


def test_mixes_repeat_and_keep_their_limits() -> None:
    assert workload.mix("mixed", 60, 1) == workload.mix("mixed", 60, 1) != workload.mix("mixed", 60, 2)
    drawn = workload.mix("summary", 200, 1, most_prompt=1000, most_output=64)
    assert max(r.prompt_tokens for r in drawn) == 1000
    assert max(r.output_tokens for r in drawn) == 64
    assert min(min(r.prompt_tokens, r.output_tokens) for r in workload.mix("extract", 500, 3)) >= 1
    with pytest.raises(UnknownName, match="chat"):
        workload.mix("poem", 1, 0)


def test_a_workload_is_the_sum_of_its_requests() -> None:
    asked = [Request(100, 11), Request(1000, 1, 3)]
    found = workload.predict(MODEL, asked, price_per_hour=36.0)
    assert found.each[0].total_s == pytest.approx(MODEL.predict(100, 11).total_s)
    assert found.each[1].total_s == pytest.approx(3.0)  # several outputs one after the other
    assert found.total_s == pytest.approx(sum(one.total_s for one in found.each))
    assert found.cost == pytest.approx(found.total_s / 100)
    assert workload.predict(MODEL, asked).cost is None
    together = workload.predict(MODEL, [Request(1, 11)] * 2, batch=2)
    assert together.total_s == pytest.approx(0.01 + 0.04)  # two at a time take the time of one pair
    with pytest.raises(NotMeasured):
        workload.predict(MODEL, asked, batch=3)


def test_energy_is_modelled_and_grows_with_cores_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from trimtab.machine import probe

    known = replace(probe.describe(), processor="AMD EPYC 9654", usable=8)
    monkeypatch.setattr(probe, "describe", lambda: known)
    one, two, longer = (workload.energy(*each) for each in ((10.0, 1), (10.0, 2), (20.0, 2)))
    assert one is not None
    assert two is not None
    assert longer is not None
    assert one.source == "modelled"
    assert one < two < longer
    assert longer.joules("modelled") == pytest.approx(2 * two.joules("modelled"))
    monkeypatch.setattr(probe, "describe", lambda: replace(known, processor="made up"))
    assert workload.energy(1.0, 1) is None
