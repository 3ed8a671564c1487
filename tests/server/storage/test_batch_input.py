"""Lines of a batch: what each must say, and that no file breaks the reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.server.storage import batch_input
from trimtab.server.storage.batch_input import MAX_ERRORS, BadLine, Checked, check, parse, read_lines

URL = "/v1/completions"
LONGEST = 500


def line(number: int = 1, **changes: Any) -> dict[str, Any]:
    body = {"prompt": "T", "max_tokens": 1}
    return {"custom_id": f"r{number}", "method": "POST", "url": URL, "body": body} | changes


def checked(path: Path, lines: list[Any]) -> Checked:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return check(path, URL, LONGEST, lambda name: name in ("m", "alias"), "m")


def test_a_sound_file(tmp_path: Path) -> None:
    found = checked(tmp_path / "in", [line(1), "", line(2, body={"model": "m"}), "  ", line(3)])
    assert found == Checked(3, "m", [])
    found = checked(tmp_path / "in", ["\ufeff" + json.dumps(line(1, body={"model": "alias"}))])
    assert found == Checked(1, "alias", [])


@pytest.mark.parametrize(
    ("lines", "code", "param", "number"),
    [
        ([], "empty_file", None, None),
        (["", "\n"], "empty_file", None, None),
        (["{"], "invalid_json_line", None, 1),
        (["[" * 400], "invalid_json_line", None, 1),
        (["[1]"], "invalid_json_line", None, 1),
        (['{"custom_id": ' + "9" * 450 + "}"], "invalid_type", "custom_id", 1),
        ([{**line(), "custom_id": ""}], "invalid_custom_id", "custom_id", 1),
        ([{key: value for key, value in line().items() if key != "custom_id"}],
         "missing_required_parameter", "custom_id", 1),
        ([line(), line(1)], "duplicate_custom_id", "custom_id", 2),
        ([line(method="GET")], "invalid_method", "method", 1),
        ([line(url="/v1/embeddings")], "mismatched_url", "url", 1),
        ([line(body=[])], "invalid_type", "body", 1),
        ([line(priority=1)], "unknown_parameter", "priority", 1),
        ([line(body={"stream": True})], "invalid_stream", "body.stream", 1),
        ([line(body={"model": "gpt-9"})], "model_not_found", "body.model", 1),
        ([line(body={"model": 3})], "model_not_found", "body.model", 1),
        ([line(1), line(2, body={"model": "alias"})], "mismatched_model", "body.model", 2),
        ([line(body={"prompt": "x" * LONGEST})], "line_too_long", None, 1),
        ([line(1), "", {**line(2), "method": "PUT"}], "invalid_method", "method", 3),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    tmp_path: Path, lines: list[Any], code: str, param: str | None, number: int | None
) -> None:
    errors = checked(tmp_path / "in", lines).errors
    assert [(e["code"], e["param"], e["line"]) for e in errors] == [(code, param, number)]
    assert errors[0]["message"].endswith((".", "'", "}"))


def test_errors_and_lines_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(checked(tmp_path / "in", ["{"] * 500).errors) == MAX_ERRORS
    monkeypatch.setattr(batch_input, "MAX_LINES", 3)
    assert checked(tmp_path / "in", [line(i) for i in range(3)]).errors == []
    assert checked(tmp_path / "in", [line(i) for i in range(9)]).errors[0]["code"] == "too_many_requests"


@given(st.binary(max_size=3000), st.integers(1, 50))
def test_long_lines_are_passed_over_whole(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, most: int
) -> None:
    path = tmp_path_factory.mktemp("in") / "lines"
    path.write_bytes(content)
    pieces = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    expected = [(i, piece) for i, piece in enumerate(pieces, 1) if piece[: most + 2].strip()]
    found = list(read_lines(path, most))
    assert [number for number, _ in found] == [number for number, _ in expected]
    for (_, got), (_, piece) in zip(found, expected, strict=True):
        assert got.rstrip(b"\n") == piece[: most + 2] if len(piece) > most + 1 else got.rstrip(b"\n") == piece
        assert len(got) <= most + 2


@given(st.binary(max_size=300))
def test_any_bytes_are_a_line_or_an_error(raw: bytes) -> None:
    with pytest.raises(BadLine):
        parse(1, raw, URL, LONGEST)
