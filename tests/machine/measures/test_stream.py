"""Bandwidth: every cell is there, rates follow from times, results are checked, sizes are read."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import _native
from trimtab.cli.main import main
from trimtab.errors import UsageError
from trimtab.machine.measures import stream
from trimtab.machine.profile import Profile

SMALL = [2**15, 2**17]


@pytest.mark.parametrize("executor", stream.EXECUTORS)
def test_every_cell_is_measured(executor: str) -> None:
    data = stream.measure(
        executors=[executor], dtypes=["f64", "f32", "bf16"], sizes=SMALL, threads=[1, 2], quick=True
    )
    threads = (1,) if executor == "serial" else (1, 2)
    cells = {(r["threads"], r["dtype"], r["pattern"], r["working_set_bytes"]) for r in data["rows"]}
    assert cells == {
        (t, d, p, s) for t in threads for d in stream.DTYPES for p in stream.PATTERNS for s in SMALL
    }
    assert not data["other_rows"]
    for row in data["rows"]:
        read, written = stream.PATTERNS[row["pattern"]]
        assert 1e7 < row["median_bytes_per_s"] <= row["bytes_per_s"] < 1e13
        # In the caches stores are plain: a line is read for each that is written.
        assert row["traffic_bytes_per_s"] == pytest.approx(
            row["bytes_per_s"] * (read + 2 * written) / (read + written)
        )
        assert bool(row["store"]) == bool(written)
    assert set(data["region_s"][executor]) == {str(t) for t in threads}
    assert data["region_s"][executor]["1"] < 1e-3


def test_past_the_caches_stores_stream_and_plain_ones_are_shown_beside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "last_cache_bytes", lambda: 2**16)
    data = stream.measure(dtypes=["f64", "f32"], sizes=SMALL, threads=[1], quick=True)
    found = {(r["dtype"], r["pattern"], r["working_set_bytes"]): r for r in data["rows"]}
    kernels = _native.choose_kernels()
    for pattern, (_, written) in stream.PATTERNS.items():
        if not written:
            continue
        assert found["f64", pattern, SMALL[0]]["store"] == _native.stream_store(kernels, "f64", False)
        last = found["f64", pattern, SMALL[1]]  # of the two rows, the later one
        assert last["store"] == _native.stream_store(kernels, "f64", True)
        assert last["traffic_bytes_per_s"] == last["bytes_per_s"]
    count = sum(r["pattern"] == "copy" and r["working_set_bytes"] == SMALL[1] for r in data["rows"])
    assert count == 3  # doubles with either store, floats with the one that fits
    assert data["triad_bytes_per_s"] == {"1": found["f64", "triad", SMALL[1]]["bytes_per_s"]}


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_the_named_store_is_in_the_code() -> None:
    name = _native.stream_store(_native.choose_kernels(), "f64", True)
    if name == "vector":
        pytest.skip("this processor has no streaming stores of vectors")
    mnemonic, register = name.split()
    code = subprocess.run(
        ["objdump", "-d", _native.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert any(mnemonic in line and f"%{register}" in line for line in code.splitlines())


@pytest.mark.parametrize("dtype", stream.DTYPES)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_full_round_of_stream_is_right(dtype: str, streaming: bool) -> None:
    place = _native.StreamPlace("fork-join", 2)
    patterns = ["copy", "scale", "add", "triad", "sum", "fill"]
    run = _native.Stream(place, _native.choose_kernels(), dtype, 100_003, patterns)
    times = run.trial(10, 1, streaming)
    assert [len(each) for each in times] == [10] * 6
    assert all(second > 0 for each in times for second in each)


def test_wrong_trials_are_refused() -> None:
    place, kernels = _native.StreamPlace("serial", 1), _native.choose_kernels()
    run = _native.Stream(place, kernels, "f64", 100, ["copy"])
    for rounds, repeats in ((0, 1), (31, 1), (1, 0)):
        with pytest.raises(ValueError, match="must"):
            run.trial(rounds, repeats)
    for wrong in (("f16", 100, ["copy"]), ("f64", 0, ["copy"]), ("f64", 100, []), ("f64", 100, ["stride"])):
        with pytest.raises(ValueError):  # noqa: PT011 - each names its own
            _native.Stream(place, kernels, *wrong)


@given(st.lists(st.tuples(st.integers(1, 900), st.sampled_from(["", "K", "M", "k", "KiB"])), min_size=1))
def test_lists_of_sizes_are_read(parts: list[tuple[int, str]]) -> None:
    unit = {"": 1, "K": 2**10, "M": 2**20}
    wanted = sorted({number * unit[name[:1].upper()] for number, name in parts})
    assert stream.parse_sizes(",".join(f"{number}{name}" for number, name in parts)) == wanted


@given(st.text(alphabet="0123456789KMG.,- ", max_size=20) | st.text(max_size=12))
def test_any_text_is_sizes_or_a_usage_error(text: str) -> None:
    try:
        sizes = stream.parse_sizes(text)
    except UsageError:
        return
    assert sizes == sorted(set(sizes))
    assert all(size > 0 for size in sizes)


def test_ranges_double() -> None:
    assert stream.parse_sizes("16K..128K") == [2**14, 2**15, 2**16, 2**17]
    assert stream.parse_sizes("3M..13M,1K") == [2**10, 3 * 2**20, 6 * 2**20, 12 * 2**20]


@pytest.mark.parametrize(
    "wrong",
    [{"executors": ["openmp"]}, {"executors": []}, {"dtypes": ["f16"]}, {"threads": [0]}, {"threads": [2000]},
     {"sizes": [100]}, {"sizes": []}, {"sizes": [2**50]}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        stream.measure(**wrong)


def rates(curve: dict[int, float]) -> list[stream.Rate]:
    return [
        stream.Rate("fork-join", 2, "f64", "read", size, rate, rate, rate, "") for size, rate in curve.items()
    ]


def test_knees_are_where_a_cache_ends() -> None:
    curve = {16: 400.0, 32: 395.0, 64: 200.0, 128: 199.0, 256: 150.0, 512: 60.0, 1024: 58.0, 2048: 57.0}
    assert stream.knees(rates(curve)) == [64, 512]
    assert stream.knees(rates({16: 30.0, 32: 30.0})) == []
    assert stream.knees([]) == []


def test_the_command_prints_and_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIMTAB_PROFILE", str(tmp_path / "profile.json"))
    command = ["trimtab", "measure", "stream", "--ws", "32K..64K", "--dtype", "f64", "--threads", "1,2"]
    command += ["--executor", "block,fork-join", "--quick"]

    def run(*more: str) -> str:
        monkeypatch.setattr("sys.argv", [*command, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    table = run()
    assert "32.0 KiB" in table
    assert "EMPTY REGION" in table
    kept = Profile.load().sections["bandwidth"].data
    assert {row["executor"] for row in kept["rows"]} == {"fork-join"}  # what the engine runs on
    assert {row["executor"] for row in kept["other_rows"]} == {"block"}
    told = json.loads(run("--json", "--no-keep"))
    assert told.keys() == kept.keys()
    assert Profile.load().sections["bandwidth"].data == kept
