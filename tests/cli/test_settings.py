"""One setting, four places: a flag beats the environment, that a file, and that the default."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.cli.options import environment_of, flag_of
from trimtab.server.config_file import HIDDEN, read_config, write_config
from trimtab.server.settings import ServeSettings, fields_of, group_of, key_of


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "trimtab.toml"
    path.write_text('port = 9000\nkv_type = "int8"\nmemory = "400MB"\ncors_origin = ["https://a.example"]\n')
    return path


def printed(cli: Any, *arguments: str, **environment: str) -> dict[str, Any]:
    done = cli("serve", "--print-config", *arguments, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return tomllib.loads(done.stdout)


def test_flag_then_environment_then_file_then_default(cli: Any, config: Path) -> None:
    assert printed(cli)["port"] == 8000
    assert printed(cli, "--config", str(config))["port"] == 9000
    assert printed(cli, "--config", str(config), TRIMTAB_PORT="9001")["port"] == 9001
    assert printed(cli, "--config", str(config), "--port", "9002", TRIMTAB_PORT="9001")["port"] == 9002
    # A default that is given as a flag is a choice too.
    assert printed(cli, "--config", str(config), "--port", "8000")["port"] == 8000
    everything = printed(cli, TRIMTAB_CONFIG=str(config), TRIMTAB_CORS_ORIGIN="https://b.example c")
    assert (everything["kv_type"], everything["memory"]) == ("int8", 400_000_000)
    assert everything["cors_origin"] == ["https://b.example", "c"]


def test_a_switch_that_a_file_turns_on_can_be_turned_off(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "on.toml"
    path.write_text("pin = true\n")
    assert printed(cli, "--config", str(path))["pin"] is True
    assert printed(cli, "--config", str(path), "--no-pin")["pin"] is False


def test_the_source_of_every_value_is_told(cli: Any, config: Path) -> None:
    said = cli(
        "serve", "--print-config", "--config", str(config), "--kv-type", "f32", TRIMTAB_NAME="x"
    ).stdout
    lines = {line.split(" = ")[0]: line for line in said.splitlines()}
    assert lines["kv_type"].endswith("# command line")
    assert lines["name"].endswith("# TRIMTAB_NAME")
    assert lines["port"].endswith(f"# {config}")
    assert lines["host"] == 'host = "127.0.0.1"'


def test_a_secret_is_never_printed(cli: Any, config: Path) -> None:
    secret = "correct-horse-battery"
    for arguments, more in ((["--api-key", secret], {}), ([], {"TRIMTAB_API_KEY": secret})):
        done = cli("serve", "--print-config", *arguments, **more)
        assert done.returncode == 0
        assert secret not in done.stdout + done.stderr
        assert HIDDEN in done.stdout
    short = cli("serve", "--api-key", "hunter2")
    assert short.returncode == 2
    assert "--api-key: it" in short.stderr
    assert "hunter2" not in short.stderr


@pytest.mark.parametrize(
    ("text", "code", "says", "hint"),
    [
        ("prot = 1", 2, "no setting `prot`", "did you mean `port`?"),
        ("kv-type = 'int8'", 2, "no setting `kv-type`", "did you mean `kv_type`?"),
        ("xyzzy = 1", 2, "no setting `xyzzy`", "--print-config"),
        ("[server]\nport = 1", 2, "no setting `server`", ""),
        ("[port]\nx = 1", 2, "`port` is a table", ""),
        ("port = 70000", 2, "trimtab.toml: port 70000: it should be less than", ""),
        ("port = 'http'", 2, "trimtab.toml: port http", ""),
        ("memory = 'lots'", 2, "'lots' is not a size", ""),
        ("port = ", 3, "not TOML", ""),
        ("\udcff", 3, "not UTF-8", ""),
    ],
)
def test_what_a_file_may_not_say(
    cli: Any, tmp_path: Path, text: str, code: int, says: str, hint: str
) -> None:
    path = tmp_path / "trimtab.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    done = cli("serve", "--config", str(path))
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there(cli: Any) -> None:
    done = cli("serve", "--config", "/no/such.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot read /no/such.toml: No such file" in done.stderr


def test_every_setting_is_in_the_help_under_its_group(cli: Any) -> None:
    said = cli("serve", "--help").stdout
    groups = list(dict.fromkeys(group_of(ServeSettings, name) for name in fields_of(ServeSettings)))
    assert groups[0] == "Model"
    assert {"Address", "Keys", "Limits", "Logs and traces"} <= set(groups)
    assert [said.index(f"\n{group}:\n") for group in groups] == sorted(
        said.index(f"\n{group}:\n") for group in groups
    )
    assert set(fields_of(ServeSettings)) == set(ServeSettings.model_fields)
    for name in ServeSettings.model_fields:
        group = said.index(f"{group_of(ServeSettings, name)}:\n")
        assert name == "model" or said.index(f"  {flag_of(name)} ") > group
    assert "\nConfiguration:\n  --config PATH" in said


def test_every_name_of_a_setting_is_its_own() -> None:
    names = list(ServeSettings.model_fields)
    assert len({environment_of(name) for name in names}) == len(names)
    assert len({key_of(name) for name in names}) == len(names)
    # These variables have a meaning of their own.
    assert not {environment_of(name) for name in names} & {"TRIMTAB_CONFIG", "TRIMTAB_CACHE", "TRIMTAB_DEBUG"}


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    name=TEXT,
    origins=st.lists(TEXT, max_size=3),
    port=st.integers(0, 65535),
    wait=st.floats(0, 1e9),
    pin=st.booleans(),
    memory=st.none() | st.integers(1, 2**40),
)
def test_what_is_printed_is_read_back(
    tmp_path: Path, name: str, origins: list[str], port: int, wait: float, pin: bool, memory: int | None
) -> None:
    made = ServeSettings(
        name=name, cors_origin=tuple(origins), port=port, max_wait_seconds=wait, pin=pin, memory_bytes=memory
    )
    path = tmp_path / "round.toml"
    path.write_text(write_config(made, {"port": "here"}), encoding="utf-8")
    assert ServeSettings(**read_config(path, ServeSettings)) == made


def test_settings_do_not_read_the_environment_by_themselves() -> None:
    os.environ["TRIMTAB_PORT"] = "1"
    try:
        assert ServeSettings().port == 8000
    finally:
        del os.environ["TRIMTAB_PORT"]
