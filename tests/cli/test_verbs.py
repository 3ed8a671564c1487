"""The verbs around the two main ones: models, pull, papers, bench, and serve's start and end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from cli_program import PROGRAM, environment


def test_an_empty_cache(cli: Any) -> None:
    done = cli("models")
    assert (done.returncode, done.stdout) == (0, "")
    assert "`trimtab pull smollm2`" in done.stderr
    assert json.loads(cli("models", "--json").stdout) == []
    assert [row["state"] for row in json.loads(cli("models", "--all", "--json").stdout)] == ["not here"]


def test_a_damaged_model_is_shown_and_removed(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "models" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    [row] = json.loads(cli("models", "--json").stdout)
    assert (row["name"], row["state"], row["size_bytes"]) == ("smollm2", "damaged", 4)
    assert cli("models").stdout.splitlines()[1].split("\t")[:2] == ["smollm2", "damaged"]
    verified = cli("models", "--verify")
    assert verified.returncode == 3
    assert "`trimtab pull smollm2`" in verified.stderr
    removed = cli("models", "--remove", "smollm2")
    assert (removed.returncode, removed.stdout) == (0, "")
    assert not path.exists()


def test_a_pulled_model(cli: Any, default_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "models" / "smollm2" / default_model.name
    path.parent.mkdir(parents=True)
    path.symlink_to(default_model)
    assert cli("pull").stdout == f"{path}\n"
    assert json.loads(cli("pull", "SmolLM2", "--json").stdout)["path"] == str(path)
    verified = cli("models", "--verify")
    assert verified.returncode == 0
    assert "every byte is as published" in verified.stderr


def test_papers(cli: Any) -> None:
    lines = cli("papers").stdout.splitlines()
    assert lines[0] == "PAPER\tSTATE\tCOMMAND\tTITLE"
    papers = json.loads(cli("papers", "--json").stdout)
    assert len(papers) == len(lines) - 1
    planned = json.loads(cli("papers", "--json", "--state", "planned").stdout)
    assert planned == [paper for paper in papers if paper["state"] == "planned"]


def test_benchmarks_and_peers_are_listed(cli: Any) -> None:
    assert cli("bench", "--list").stdout.startswith("BENCHMARK\tCLAIM\n")
    assert isinstance(json.loads(cli("bench", "--list", "--json").stdout), list)
    peers = json.loads(cli("bench", "--peers", "--json").stdout)
    assert {"peer", "missing"} <= set(peers[0])


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serve_says_where_and_leaves_in_order(tmp_path: Path, sig: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.fullmatch(r"trimtab serves speller at (http://127\.0\.0\.1:\d+/v1) \(.*\)\n", line)
        assert found, line
        with urllib.request.urlopen(f"{found[1]}/models", timeout=30) as answer:
            assert json.load(answer)["data"][0]["id"] == "speller"
        process.send_signal(sig)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "", "")
