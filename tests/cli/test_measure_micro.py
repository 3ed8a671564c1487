"""`trimtab measure micro` and `verify`: tables and JSON, and what lands in the profile."""

from __future__ import annotations

import json
from datetime import UTC, datetime
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


def test_verify_says_what_changed_and_ends_with_one(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.machine import micro
    from trimtab.machine.micro import memory
    from trimtab.machine.profile import Section, update

    path = tmp_path / "profile.json"
    monkeypatch.setattr(memory, "CLOSE_BYTES", 2**21)
    found = micro.measure(quick=True)
    found["peak_units"]["frequency_hz"]["one"] *= 3
    for name, data in found.items():
        update(name, Section(data, datetime.now(UTC).isoformat()), path)
    done = cli("measure", "verify", "--profile", str(path), "--json")
    assert done.returncode == 1, done.stderr
    shown = json.loads(done.stdout)
    assert "core clock" in shown["changed"]
    assert {"name", "unit", "before", "now", "tolerance", "change", "changed"} == set(shown["anchors"][0])
    assert "cores and the system" in done.stderr


def test_the_anchors_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from trimtab.cli.measure.verify import app
    from trimtab.machine.micro import verify
    from trimtab.machine.profile import Profile

    monkeypatch.setattr(Profile, "load", lambda path: Profile.empty())
    anchors = [verify.Anchor("core clock", "Hz", 3.7e9, 3.7e9, 0.1)]
    monkeypatch.setattr(verify, "verify", lambda profile, say: anchors)
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0].startswith("ANCHOR")
    assert "3.700 GHz" in done.stdout
    assert "this is the machine of the profile" in done.stderr
    anchors.append(verify.Anchor("system call", "ns", 100.0, 200.0, 0.3))
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 1
    assert "+100.0%" in done.stdout
    assert "changed: system call" in done.stderr


def test_a_gpus_rows_are_kept_as_a_section_of_their_own(cli: Any, tmp_path: Path) -> None:
    """Through a made-up program: what it prints was not measured."""
    path, program = tmp_path / "profile.json", tmp_path / "made-up-gpu"
    device = {"device": "made up", "capability": "9.0", "processors": 132, "clock_hz": 1.8e9}
    device |= {"l2_bytes": 1, "memory_bytes": 1, "driver": 13000}
    row = {
        "name": "wgmma bf16 ss", "suite": "throughput", "width_bits": 0, "cores": 132, "ns": 70.0,
        "cycles": 128.0, "rate": 6e14, "unit": "op/s", "n": 7, "median_ns": 70.0, "iqr_ns": 0.1,
        "method": "made up", "detail": {"n": 256, "data": "random"},
    }  # fmt: skip
    program.write_text(f"#!/bin/sh\necho '{json.dumps(device)}'\necho '{json.dumps(row)}'\n")
    program.chmod(0o755)
    arguments = ("--gpu", "--force", "--program", str(program), "--out", str(path))
    done = cli("measure", "micro", *arguments)
    assert done.returncode == 0, done.stderr
    assert "wgmma bf16 ss" in done.stdout
    assert set(Profile.load(path).sections) == {"gpu_units"}
    refused = cli("measure", "micro", "--program", "x")
    assert refused.returncode == 2
    assert "only with --gpu" in refused.stderr
