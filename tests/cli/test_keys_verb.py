"""`trimtab keys` from outside: what it prints, what it keeps, what it refuses."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.keys import moment
from trimtab.errors import UsageError
from trimtab.server.access.keys import Keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state/trimtab/keys.json"


def test_a_life_of_a_key(cli: Any, file: Path) -> None:
    made = cli("keys", "create", "alice", "--requests-per-minute", "60", "--expires", "90d")
    assert made.returncode == 0
    key = made.stdout.strip()
    assert key.startswith("tt-")
    assert made.stdout == f"{key}\n"
    assert key not in made.stderr
    assert "cannot be shown again" in made.stderr
    tenant = Keys(file).find(key)
    assert (tenant.name, tenant.limits.requests_per_minute) == ("alice", 60)

    listed = json.loads(cli("keys", "list", "--json").stdout)
    assert listed[0]["name"] == "alice"
    assert listed[0]["keys"][0]["expires"] == pytest.approx(time.time() + 90 * 86400, abs=100)
    assert "salt" not in listed[0]
    assert "sha256" not in json.dumps(listed)
    assert "60 requests/min" in cli("keys", "list").stdout

    changed = cli(
        "keys", "set", "alice", "--requests-per-minute", "0", "--max-concurrent", "2", "--weight", "3"
    )
    assert changed.returncode == 0
    assert Keys(file).find(key).limits.requests_per_minute is None
    assert Keys(file).find(key).weight == 3

    second = json.loads(cli("keys", "rotate", "alice", "--keep", "1h", "--json").stdout)
    both = Keys(file)
    assert both.find(key).salt == both.find(second["key"]).salt  # the prefix cache stays the tenant's
    third = cli("keys", "rotate", "alice").stdout.strip()
    assert Keys(file).find(third).limits.max_concurrent == 2
    for old in (key, second["key"]):
        with pytest.raises(Exception, match="not a key"):
            Keys(file).find(old)

    assert json.loads(cli("keys", "revoke", "alice", "--json").stdout)["name"] == "alice"
    assert Keys(file).required
    with pytest.raises(Exception, match="not a key"):
        Keys(file).find(third)
    assert "no keys in" in cli("keys", "list").stderr


def test_one_key_of_several_is_revoked(cli: Any, file: Path) -> None:
    first = json.loads(cli("keys", "create", "alice", "--json").stdout)
    second = json.loads(cli("keys", "rotate", "alice", "--keep", "1d", "--json").stdout)
    assert cli("keys", "revoke", "alice", "--key", first["id"]).returncode == 0
    assert Keys(file).find(second["key"]).name == "alice"
    with pytest.raises(Exception, match="not a key"):
        Keys(file).find(first["key"])


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (["create", "alice"], "`alice` has a key already", "rotate alice"),
        (["create", "a b"], "cannot be a name", "letters, digits"),
        (["create", "x", "--weight", "0"], "--weight 0", ""),
        (["create", "x", "--requests-per-minute", "-1"], "--requests-per-minute -1", ""),
        (["create", "x", "--expires", "soon"], "'soon' is no time", "2030-01-31"),
        (["create", "x", "--expires", "2001-01-01"], "is past", ""),
        (["revoke", "alcie"], "nobody called `alcie`", "did you mean `alice`?"),
        (["revoke", "alice", "--key", "00000000"], "has no key `00000000`", "keys list"),
        (["set", "alice"], "nothing to change", "--help"),
        (["rotate", "bob"], "nobody called `bob`", ""),
        (["create", "x", "--file", "/proc/no/keys.json"], "cannot write", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(cli: Any, file: Path, arguments: list[str], says: str, hint: str) -> None:
    cli("keys", "create", "alice")
    before = file.read_bytes()
    done = cli("keys", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_bytes() == before


def test_the_file_can_be_named(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    key = cli("keys", "create", "alice", TRIMTAB_KEYS_FILE=str(path)).stdout.strip()
    assert Keys(path).find(key).name == "alice"
    assert cli("keys", "list", "--file", str(path)).stdout.count("alice") == 1


@pytest.mark.parametrize("word", ["create", "rotate", "set", "list", "revoke"])
def test_every_word_explains_itself(cli: Any, word: str) -> None:
    done = cli("keys", word, "--help")
    assert done.returncode == 0
    assert f"Usage: trimtab keys {word}" in done.stdout
    assert "--json" in done.stdout


def test_moments() -> None:
    assert moment(None, 5) is None
    assert [moment(text, 100) for text in ("10s", "2m", "1h", "1d", "1w")] == [110, 220, 3700, 86500, 604900]
    assert moment("2100-01-01", 0) == 4102531199
    for wrong in ("", "1", "1y", "d", "-1d", "2100-13-01"):
        with pytest.raises(UsageError):
            moment(wrong, 0)
