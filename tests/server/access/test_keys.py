"""Keys on disk and in memory: only hashes are kept, changes show, and no way leads back to an open server."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from trimtab.errors import BadFile, UnknownName
from trimtab.server.access import keyfile
from trimtab.server.access.keyfile import KeyFile, TenantRecord, change, new_key, new_salt, read
from trimtab.server.access.keys import LOOK_EVERY_S, Keys, WrongKey


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def later(self, seconds: float = LOOK_EVERY_S) -> None:
        self.now += seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.json"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def add(path: Path, name: str, expires: int | None = None, **fields: object) -> str:
    key, kept = new_key(1000, expires)
    made = TenantRecord(name=name, salt=new_salt(), keys=(kept,), **fields)  # type: ignore[arg-type]
    change(path, lambda content: content.replaced(made))
    return key


def opened(path: Path, clock: Clock, own: str | None = None) -> Keys:
    return Keys(path, own, clock=clock, wall=clock)


def test_a_key_is_found_and_only_its_hash_is_kept(path: Path, clock: Clock) -> None:
    key = add(path, "alice", requests_per_minute=3, weight=2.0)
    keys = opened(path, clock)
    assert keys.required
    tenant = keys.find(key)
    assert (tenant.name, tenant.weight, tenant.limits.requests_per_minute) == ("alice", 2.0, 3)
    assert not tenant.admin
    assert keys.tenant("alice") == tenant
    text = path.read_text()
    assert key not in text
    assert key[12:] not in text


def test_keys_have_256_random_bits_and_a_prefix() -> None:
    made = [new_key(0, None)[0] for _ in range(200)]
    assert len(set(made)) == 200
    for key in made:
        assert key.startswith("tt-")
        assert keyfile.id_of(key) == key[3:11]
        assert len(key[12:]) == 43  # 32 bytes in base 64


def test_wrong_keys(path: Path, clock: Clock) -> None:
    key = add(path, "alice")
    keys = opened(path, clock)
    last = "A" if key[-1] != "A" else "B"
    wrong = ["", "x", key[:-1], key + "x", key[:-1] + last, key.upper(), "tt-" + "0" * 8 + "-" + "x" * 43]
    for other in [*wrong, "tt-" + "\udcff" * 52, "é" * 55]:
        with pytest.raises(WrongKey, match="not a key"):
            keys.find(other)


def test_a_key_ends_when_its_time_is_over(path: Path, clock: Clock) -> None:
    key = add(path, "alice", expires=1500)
    keys = opened(path, clock)
    keys.find(key)
    clock.later(500)
    with pytest.raises(WrongKey, match="expired"):
        keys.find(key)


def test_changes_show_without_a_restart(path: Path, clock: Clock) -> None:
    alice = add(path, "alice")
    keys = opened(path, clock)
    bob = add(path, "bob")
    with pytest.raises(WrongKey):
        keys.find(bob)  # the file is looked at once a second only
    clock.later()
    assert keys.find(bob).name == "bob"
    change(path, lambda content: KeyFile(tenants=tuple(t for t in content.tenants if t.name != "alice")))
    clock.later()
    with pytest.raises(WrongKey):
        keys.find(alice)
    assert keys.tenant("alice") is None


def test_a_server_without_keys_is_open_until_there_is_one(path: Path, clock: Clock) -> None:
    keys = opened(path, clock)
    assert not keys.required
    assert keys.tenant("anybody") is not None
    key = add(path, "alice")
    clock.later()
    assert keys.required
    assert keys.find(key).name == "alice"


@pytest.mark.parametrize("how", ["emptied", "removed", "spoiled", "writable"])
def test_no_way_leads_back_to_an_open_server(
    path: Path, clock: Clock, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = add(path, "alice")
    keys = opened(path, clock)
    if how == "emptied":
        change(path, lambda content: KeyFile())
    elif how == "removed":
        path.unlink()
    elif how == "spoiled":
        path.write_text("{")
    else:
        path.chmod(0o666)
        os.utime(path, ns=(1, 1))
    for _ in range(3):
        clock.later()
        assert keys.required
    if how == "emptied":
        with pytest.raises(WrongKey):
            keys.find(key)
    else:
        assert keys.find(key).name == "alice"
    assert len(caplog.records) == (how in ("spoiled", "writable"))  # said once


def test_the_key_that_is_set_by_hand(path: Path, clock: Clock) -> None:
    keys = opened(path, clock, own="correct-horse-battery")
    assert keys.required
    assert keys.find("correct-horse-battery").admin
    for wrong in ("correct-horse-batterx", "", "corr\udcffct"):
        with pytest.raises(WrongKey):
            keys.find(wrong)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a file of keys"),
        ("[]", "not a file of keys"),
        ('{"version": 2}', "version"),
        ('{"version": 1, "tenants": [{"name": "a b", "salt": "0123456789abcdef"}]}', "tenants.0.name"),
        ('{"version": 1, "tenants": [{"name": "a", "salt": "0123456789abcdef", "wieght": 1}]}', "wieght"),
    ],
)
def test_a_file_that_is_none_stops_the_start(path: Path, clock: Clock, text: str, says: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(BadFile, match=says):
        opened(path, clock)


def test_a_file_that_others_may_write_is_refused(path: Path, clock: Clock) -> None:
    add(path, "alice")
    path.chmod(0o620)
    with pytest.raises(BadFile, match="others may change") as caught:
        opened(path, clock)
    assert "chmod 600" in caught.value.hint


def test_permissions_are_strict_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        add(path, "alice")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(path, "alice")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keyfile.os, "fsync", full)
    with pytest.raises(Exception, match="No space left"):
        add(path, "bob")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]


def test_many_writers_lose_nothing(path: Path) -> None:
    threads = [threading.Thread(target=add, args=(path, f"t{number}")) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = read(path)
    assert content is not None
    assert {tenant.name for tenant in content.tenants} == {f"t{number}" for number in range(20)}


def test_a_reader_never_sees_half_a_file(path: Path) -> None:
    add(path, "alice")
    over = threading.Event()
    broken: list[Exception] = []

    def look() -> None:
        while not over.is_set():
            try:
                assert read(path) is not None
            except Exception as error:
                broken.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(30):
        add(path, f"t{number}")
    over.set()
    reader.join()
    assert not broken


def test_an_unknown_name_is_answered_with_the_nearest(path: Path) -> None:
    add(path, "alice")
    content = read(path)
    assert content is not None
    with pytest.raises(UnknownName) as caught:
        content.tenant("alcie")
    assert "did you mean `alice`" in caught.value.hint


def test_the_file_is_plain_json(path: Path) -> None:
    add(path, "alice", models=("a",))
    written = json.loads(path.read_text())
    assert written["version"] == 1
    assert written["tenants"][0]["models"] == ["a"]
