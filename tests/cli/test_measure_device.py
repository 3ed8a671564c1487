"""`trimtab measure device`: the commands as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RECORD = {
    "turns": [
        {
            "events": [
                {"event": "request", "start_s": 0.0, "duration_s": 0.1},
                {"event": "prefill", "start_s": 0.1, "duration_s": 0.4},
                {"event": "decode", "start_s": 0.5, "duration_s": 2.0},
            ],
            "text": "a b c", "prompt_tokens": 30, "output_tokens": 41,
            "token_times_s": [0.5 + index * 0.05 for index in range(41)],
        }
    ]
}  # fmt: skip


def trimtab(*words: str, profile: Path) -> subprocess.CompletedProcess[str]:
    import os

    start = "from trimtab.cli.main import main; main()"
    environment = {**os.environ, "TRIMTAB_PROFILE": str(profile)}
    return subprocess.run(
        [sys.executable, "-c", start, "measure", "device", *words],
        capture_output=True, text=True, env=environment, check=False, timeout=120,
    )  # fmt: skip


def test_a_recorded_run_is_reported_and_kept_in_the_profile(tmp_path: Path, default_model: Path) -> None:
    record, profile = tmp_path / "record", tmp_path / "profile.json"
    record.mkdir()
    (record / "conversation-0.json").write_text(json.dumps(RECORD))
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({
        "devices": [{"name": "elsewhere", "driver": "replay", "record": "record"}],
        "models": [{"model": str(default_model)}],
        "conversations": [0, 1], "turns": 1, "repetitions": 1, "settle_s": 0,
    }))  # fmt: skip
    ran = trimtab("run", "--plan", str(plan), "--out", str(tmp_path / "out"), "--json", profile=profile)
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(ran.stdout)["rows"]
    assert row["decode_tokens_per_s"] == pytest.approx(20)
    assert row["ttft_s"] == pytest.approx(0.5)
    assert row["emulation"] == "replayed record"
    for words in (("report",), ("report", str(tmp_path / "out"))):
        shown = trimtab(*words, profile=profile)
        assert shown.returncode == 0, shown.stderr
        assert "replayed record" in shown.stdout
        assert "DECODE tok/s" in shown.stdout
    assert json.loads(profile.read_text())["sections"]["device"]["basis"] == "recorded"


def test_mistakes_are_named(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    for words, says in (
        (("run",), "--quick"),
        (("run", "--plan", str(tmp_path / "none.yaml")), "none.yaml"),
        (("report",), "no profile"),
        (("report", str(tmp_path)), "summary"),
        (("fit", "--limit", "lots"), "not a size"),
    ):
        ended = trimtab(*words, profile=profile)
        assert ended.returncode in (2, 3), words
        assert says in ended.stderr, (words, ended.stderr)


def test_fit_tells_without_running(tmp_path: Path, default_model: Path) -> None:
    ended = trimtab(
        "fit", str(default_model), "--limit", "100MB", "--limit", "2GB", "--format", "q4", "--json",
        profile=tmp_path / "profile.json",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    small, large = json.loads(ended.stdout)
    assert (small["fits"], large["fits"]) == (False, True)
    assert 150e6 < small["needed_bytes"] == large["needed_bytes"] < 400e6
