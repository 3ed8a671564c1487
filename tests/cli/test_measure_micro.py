"""`trimtab measure micro`: tables and JSON, and what lands in the profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.machine.profile import Profile


def test_a_whole_section_lands_in_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from trimtab.cli.measure.micro import app
    from trimtab.machine.micro import memory

    monkeypatch.setattr(memory, "CLOSE_BYTES", 2**21)
    path = tmp_path / "profile.json"
    done = CliRunner().invoke(app, ["--quick", "--force", "--suite", "memory", "--out", str(path)])
    assert done.exit_code == 0, done.output
    assert "levels end at" in done.stderr
    assert done.stdout.splitlines()[0].startswith("BYTES\t")
    assert set(Profile.load(path).sections) == {"latency"}


def test_half_a_section_is_shown_and_not_kept(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    arguments = ("--quick", "--force", "--suite", "latency", "--json", "--out", str(path))
    done = cli("measure", "micro", *arguments)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["peak_units"]["rows"]
    assert {row["suite"] for row in rows} == {"latency"}
    assert not path.exists()


def test_an_unknown_suite_is_refused_before_anything_is_measured(cli: Any) -> None:
    done = cli("measure", "micro", "--suite", "speed")
    assert done.returncode == 2
    assert "--suite speed: no such suite" in done.stderr
