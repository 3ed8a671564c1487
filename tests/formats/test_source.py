"""What `open_source` accepts as a model, and in which words it refuses everything else."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hand_made import small_folder, small_gguf

from trimtab.errors import BadFile, TrimtabError, Unsupported
from trimtab.formats.source import open_source


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    return stream.getvalue()


class Trap:
    """Unpickling this makes a file: no test may ever find it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    "name", ["model.gguf", "model.safetensors", "pytorch_model.bin", "model.pt", "model"]
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(), "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs pointer"),
        (b"\n<!doctype HTML>\n<title>404</title>", "web page"),
        (b"\x1f\x8b\x08\0" + bytes(30), "gzip"),
        (b"lmgg" + bytes(60), "before GGUF"),
        (b"\x7fELF" + bytes(60), "a program"),
        (b"", "empty"),
    ],
)
def test_other_files_are_called_what_they_are(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    small_folder(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises((BadFile, Unsupported), match=message) as caught:
        open_source(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors", "model.bin"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_are_named_and_never_loaded(tmp_path: Path, name: str, protocol: int) -> None:
    small_folder(tmp_path)
    mark = tmp_path / "executed"
    (tmp_path / name).write_bytes(pickle.dumps(Trap(mark), protocol))
    with pytest.raises(TrimtabError, match="pickle"):
        open_source(tmp_path / name)
    assert not mark.exists()


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"neither \*\.safetensors nor a \.gguf"):
        open_source(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(zipped())
    with pytest.raises(Unsupported, match="as a pickle"):
        open_source(tmp_path)
    (tmp_path / "one.gguf").write_bytes(small_gguf().data)
    with open_source(tmp_path) as source:
        assert source.kind == "gguf"
    (tmp_path / "two.gguf").write_bytes(small_gguf().data)
    with pytest.raises(BadFile, match=r"2 GGUF models: one\.gguf, two\.gguf"):
        open_source(tmp_path)
    small_folder(tmp_path)
    with open_source(str(tmp_path)) as source:
        assert source.kind == "safetensors"
    (tmp_path / "config.json").unlink()
    with pytest.raises(BadFile, match=r"no config\.json"):
        open_source(tmp_path)


def test_a_single_safetensors_file_stands_for_itself(tmp_path: Path) -> None:
    folder = small_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "second.safetensors")
    (folder / "model.safetensors").write_bytes(b"not read")
    with open_source(folder / "second.safetensors") as source:
        assert "model.norm.weight" in source.names()


@pytest.mark.parametrize("path", ["missing", "missing/model.gguf", "x\0y", "x" * 5_000])
def test_paths_that_lead_nowhere(tmp_path: Path, path: str) -> None:
    with pytest.raises(BadFile):
        open_source(tmp_path / path)


def test_a_gguf_file_needs_no_suffix(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(small_gguf().data)
    with open_source(tmp_path / "blob") as source:
        assert source.kind == "gguf"


def test_no_gguf_inside(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"FUGG" + bytes(100))
    with pytest.raises(BadFile, match=r"m\.gguf at byte 0: no GGUF file: it begins with b'FUGG'"):
        open_source(tmp_path / "m.gguf")


def test_pipes_and_devices_do_not_block(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    for name in ("model.safetensors", "config.json"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(BadFile, match="no regular file"):
            open_source(folder)
        (folder / name).unlink()
        (folder / name).write_bytes(kept)
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(BadFile, match="neither a file nor a folder"):
        open_source(tmp_path / "m.gguf")
    with pytest.raises(BadFile, match="neither a file nor a folder"):
        open_source("/dev/zero")


def test_links_stay_inside_the_folder(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    outside = tmp_path / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(BadFile, match=r"links to .*outside\.safetensors, outside its folder"):
        open_source(folder)
    (folder / "model.safetensors").unlink()
    outside.rename(folder / "real.safetensors")
    (folder / "model.safetensors").symlink_to("real.safetensors")
    with open_source(folder) as source:
        assert source.names()
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/passwd")
    with pytest.raises(BadFile, match="outside its folder"):
        open_source(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")
    with pytest.raises(BadFile):
        open_source(folder)


def test_links_of_the_hub_cache(tmp_path: Path) -> None:
    model = tmp_path / "models--someone--something"
    snapshot = small_folder(model / "snapshots" / "abc")
    (model / "blobs").mkdir()
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).rename(model / "blobs" / f"sha-{name}")
        (snapshot / name).symlink_to(Path("../../blobs") / f"sha-{name}")
    with open_source(snapshot) as source:
        assert source.names()
    other = tmp_path / "models--someone--else" / "blobs"
    other.mkdir(parents=True)
    (model / "blobs" / "sha-model.safetensors").rename(other / "sha")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(other / "sha")
    with pytest.raises(BadFile, match="outside its folder"):
        open_source(snapshot)


def test_opening_loads_no_heavy_package(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    (tmp_path / "m.gguf").write_bytes(small_gguf().data)
    code = (
        "import sys; from trimtab.formats.source import open_source\n"
        "for path in sys.argv[1:]:\n"
        "    source = open_source(path); [source.dequantized(n) for n in source.names()[:2]]\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "m.gguf")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "gguf", "safetensors", "tokenizers", "pydantic", "pickle5"}
    assert not heavy & {name.split(".")[0] for name in loaded}
