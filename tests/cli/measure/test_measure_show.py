"""`trimtab measure` and `measure show` as people and programs use them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_profile import HOSTILE, whole_profile

from trimtab.cli.measure import characters, terminal
from trimtab.machine.figures import Curve
from trimtab.machine.profile import Profile

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_the_terminal_shows_everything_that_is_known() -> None:
    for plain in (False, True):
        found = dict(terminal.parts(whole_profile(), 80, plain))
        assert {"Processor", "Limits", "GPU", "Roofline, 2 threads", "Latency ladder", "Sections"} <= set(
            found
        )
        text = "\n".join(line for lines in found.values() for line in lines)
        assert "200 Gop/s" in text
        assert "! disk was measured on a busy machine" in text
        assert all(
            len(line) <= 82 for title in ("Latency ladder", "Roofline, 2 threads") for line in found[title]
        )
        assert not plain or all(ord(each) < 128 or each == "µ" for each in text)


def test_the_ladder_goes_up() -> None:
    lines = dict(terminal.parts(whole_profile(), 80, True))["Latency ladder"]
    lengths = [line.count("=") for line in lines]
    assert lengths == sorted(lengths)
    assert lines[0].startswith("load from L1")
    assert "python" in lines[-1]
    assert any(line.startswith("syscall ") for line in lines)
    assert not any("store" in line for line in lines)


def test_of_an_empty_profile_nothing_is_shown() -> None:
    assert terminal.parts(Profile({}, {}), 80, True) == [("Processor", ["Name  "])]


points = st.lists(st.tuples(st.floats(1e-12, 1e15), st.floats(1e-12, 1e15)), max_size=12)


@given(st.lists(points, max_size=4), st.integers(20, 120), st.integers(2, 20))
def test_any_curves_fit_their_frame(curves: list[list[tuple[float, float]]], width: int, height: int) -> None:
    named = [Curve(f"c{i}", sorted(each)) for i, each in enumerate(curves)]
    lines = characters.chart(
        named, lambda x: f"{x:.3g}", lambda y: f"{y:.3g}", width=width, height=height, plain=True
    )
    assert bool(lines) == any(curves)
    drawn = "\n".join(lines[:height])
    for number, each in enumerate(curves):
        # A mark may be covered by a later curve's, but the last curve's never.
        if each and not any(curves[number + 1 :]):
            assert characters.PLAIN[number] in drawn


def test_show_without_a_profile_says_how_to_get_one(cli: Run) -> None:
    done = cli("measure", "show")
    assert done.returncode == 2
    assert "has no profile" in done.stderr
    assert "`trimtab measure --quick`" in done.stderr


def test_show_reads_a_named_profile_also_another_machines(cli: Run, tmp_path: Path) -> None:
    path = whole_profile(HOSTILE).save(tmp_path / "p.json")
    done = cli("measure", "show", "--profile", str(path))
    assert done.returncode == 0, done.stderr
    assert "Roofline, 2 threads" in done.stdout
    assert HOSTILE in done.stdout  # not markup of the terminal's either
    told = json.loads(cli("measure", "show", "--profile", str(path), "--json").stdout)
    assert told["schema"] == "hwprofile/1"
    assert told["sections"]["peak"]["data"]["rows"]
    page = tmp_path / "page.html"
    done = cli("measure", "show", "--profile", str(path), "--html", str(page))
    assert done.returncode == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert HOSTILE not in page.read_text(encoding="utf-8")
    done = cli("measure", "show", "--profile", str(path), "--html", str(tmp_path / "no" / "page.html"))
    assert done.returncode == 2
    assert "--html" in done.stderr


def test_measuring_writes_a_profile_and_tells_it(cli: Run, tmp_path: Path) -> None:
    out = tmp_path / "own.json"
    done = cli("measure", "--only", "topology,limits", "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["profile"] == str(out)
    assert set(told["sections"]) == {"topology", "limits"} == set(Profile.load(out).sections)
    assert told["missing"] == {}
    assert "[1/2 topology]" in done.stderr
    table = cli("measure", "--only", "limits", "--out", str(out)).stdout.splitlines()
    assert table[0].split("\t") == ["SECTION", "STATE", "SECONDS"]
    assert table[1].startswith("limits\tmeasured")


def test_wrong_names_are_refused(cli: Run) -> None:
    done = cli("measure", "--only", "speed")
    assert done.returncode == 2
    assert "no section `speed`" in done.stderr
    done = cli("measure", "shwo")
    assert done.returncode == 2
    assert "measure show" in done.stderr


def test_the_choice_of_kernels_is_explained(cli: Run) -> None:
    rows = json.loads(cli("measure", "--kernels", "--json").stdout)
    assert [row["state"] for row in rows].count("chosen") == 1
    assert "chosen" in cli("measure", "--kernels").stdout


def test_help_teaches(cli: Run) -> None:
    for arguments in (("measure", "--help"), ("measure", "show", "--help")):
        done = cli(*arguments)
        assert done.returncode == 0
        assert "Examples:" in done.stdout


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    import signal
    import sys

    from cli_program import PROGRAM, environment

    out = tmp_path / "p.json"
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "measure",
        "--force",
        "--only",
        "topology,limits,disk",
        "--out",
        str(out),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "disk" in line:
                process.send_signal(signal.SIGINT)
                break
        process.stderr.read()
    assert process.returncode == 130
    assert set(Profile.load(out).sections) == {"topology", "limits"}
    assert not list((tmp_path / "cache").glob(".disk-measurement.*"))
