"""What `deploy/` ships: settings the server takes, a unit systemd takes, a container that is not root."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from trimtab.cli.options import environment_of
from trimtab.server.config_file import read_config
from trimtab.server.settings import ServeSettings

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
UNIT = (DEPLOY / "trimtab.service").read_text(encoding="utf-8")
CONTAINER = (DEPLOY / "Containerfile").read_text(encoding="utf-8")


def unit() -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT)
    return dict(parser["Service"])


def test_the_example_file_is_one() -> None:
    given = read_config(DEPLOY / "trimtab.toml", ServeSettings)
    settings = ServeSettings(**given)
    assert settings.host == "0.0.0.0"
    assert settings.keys_file is not None  # no network without keys
    assert not settings.insecure_open


def test_what_is_commented_out_there_would_be_taken_too(tmp_path: Path) -> None:
    text = (DEPLOY / "trimtab.toml").read_text(encoding="utf-8")
    path = tmp_path / "all.toml"
    path.write_text(re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE), encoding="utf-8")
    given = read_config(path, ServeSettings)
    assert {"memory_bytes", "context", "tls_cert", "tls_key", "cors_origin", "otlp_endpoint"} <= set(given)
    ServeSettings(**given)


def test_a_stop_of_the_service_lets_requests_finish() -> None:
    service = unit()
    drain = ServeSettings(**read_config(DEPLOY / "trimtab.toml", ServeSettings)).drain_seconds
    assert int(service["TimeoutStopSec"].removesuffix("s")) >= drain + 10
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"  # the signal goes to the server alone
    assert service["ExecStart"].endswith("trimtab serve --config /etc/trimtab/trimtab.toml")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "trimtab.service"
    path.write_text(UNIT.replace("/opt/trimtab/bin/trimtab", "/bin/true"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    said = [line for line in (done.stdout + done.stderr).splitlines() if "trimtab" in line]
    assert (done.returncode, said) == (0, [])
    score = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert score.returncode == 0, score.stdout  # an exposure of at most 2.0 of 10


def test_the_container_runs_as_nobody_in_particular() -> None:
    stages = re.split(r"^FROM ", CONTAINER, flags=re.MULTILINE)[1:]
    last = stages[-1]
    assert ":3.12-slim" in last.splitlines()[0]
    assert "g++" not in last
    users = re.findall(r"^USER (\S+)", last, re.MULTILINE)
    assert users == ["10001"]
    assert last.index("USER") < last.index("ENTRYPOINT")
    assert "HEALTHCHECK" in last
    assert "STOPSIGNAL SIGTERM" in last
    assert "insecure" not in CONTAINER.lower()


def test_the_containers_variables_are_settings() -> None:
    known = {environment_of(name) for name in ServeSettings.model_fields} | {"TRIMTAB_CACHE"}
    assert set(re.findall(r"\b(TRIMTAB_[A-Z_]+)=", CONTAINER)) <= known
    assert set(re.findall(r"\b(TRIMTAB_[A-Z_]+)=", UNIT)) <= known
