"""The disk's curve: what it writes is bounded and gone afterwards, what the system refuses is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trimtab import _native
from trimtab.errors import UsageError
from trimtab.machine.measures import disk

MIB = 1 << 20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "QUICK_FILE_BYTES", 16 * MIB)
    monkeypatch.setattr(disk, "QUICK_WRITTEN_BYTES", 24 * MIB)


def test_every_cell_is_there_and_nothing_is_left_behind(tmp_path: Path, small: None) -> None:
    found = disk.measure(quick=True, folder=tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    assert found["file_bytes"] == 16 * MIB
    cells = {(row["op"], row["size_bytes"], row["depth"]) for row in found["rows"]}
    assert cells == {
        (op, size, depth) for op in ("read", "write") for size in disk.SIZES for depth in disk.DEPTHS
    }
    for row in found["rows"]:
        assert row["bytes_per_s"] > 0
        assert row["n"] == 2
        assert 0 < row["latency_s"] <= row["latency_p99_s"]
        assert row["operations_per_s"] == pytest.approx(row["bytes_per_s"] / row["size_bytes"])


def test_what_is_written_stays_within_its_bound(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    real = _native.disk_run

    def counted(handle: int, write: bool, size: int, *rest: object) -> object:
        nonlocal written
        result = real(handle, write, size, *rest)
        written += write * size * result[1]
        return result

    monkeypatch.setattr(_native, "disk_run", counted)
    disk.measure(quick=True, folder=tmp_path)
    # Every cell may go over its share by the requests that are under way, and each depth has a first one.
    over = 3 * sum(size * depth for size in disk.SIZES for depth in disk.DEPTHS)
    assert 0 < written <= disk.QUICK_WRITTEN_BYTES + over


def test_a_file_system_without_direct_transfers_is_marked(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refusing(path: object, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refusing)
    found = disk.measure(quick=True, folder=tmp_path)
    assert found["direct"] is False
    assert "refuses" in found["why_not_direct"]
    assert len(found["rows"]) == 18


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no memory file system")
def test_memory_file_systems_are_measured_as_what_they_are(small: None, tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        found = disk.measure(quick=True, folder=Path(folder))
    # Some kernels take O_DIRECT there; then the file is seen to lie in the page cache.
    assert found["direct"] is False
    assert found["why_not_direct"]
    assert found["file_system"]["type"] == "tmpfs"


def test_no_room_and_no_folder_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UsageError, match="cannot be measured"):
        disk.measure(quick=True, folder=blocked / "under")
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 20 * MIB})())
    with pytest.raises(UsageError, match="20 MiB free"):
        disk.measure(quick=True, folder=tmp_path)
    assert usage.f_bsize > 0
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_failure_midway_leaves_nothing_behind(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "in_turns", interrupted)
    with pytest.raises(KeyboardInterrupt):
        disk.measure(quick=True, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_native_run_transfers_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "f"
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(handle, MIB)
        seconds, operations, each = _native.disk_run(handle, True, 4096, 3, MIB, 5.0, 64 * 4096, 7)
        assert operations == len(each) == 64  # the bound on bytes ends it, not the time
        assert 0 < max(each) <= seconds
        content = path.read_bytes()
        blocks = {content[at : at + 4096] for at in range(0, MIB, 4096)}
        assert 2 <= len(blocks) <= 4  # three buffers of random data, and what was never written
        assert path.stat().st_size == MIB
        _, read, _ = _native.disk_run(handle, False, 4096, 2, MIB, 0.0, MIB, 7)
        assert 1 <= read <= 2  # without time each place in the queue does one
        for wrong in ((100, 1, MIB), (4096, 0, MIB), (4096, 1, 100), (4096, 999, MIB)):
            with pytest.raises(ValueError, match=":"):
                _native.disk_run(handle, False, *wrong, 0.1, MIB)
    finally:
        os.close(handle)
    with pytest.raises(OSError, match="descriptor"):
        _native.disk_run(handle, False, 4096, 2, MIB, 0.1, MIB)
