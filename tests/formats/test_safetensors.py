"""The safetensors reader against the published library, and against headers that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_made import (
    CONFIG,
    SMALL_TENSORS,
    safetensors_bytes,
    safetensors_header,
    small_folder,
    small_safetensors,
)
from safetensors.numpy import save_file

from trimtab.errors import BadFile, Unsupported
from trimtab.formats.source import open_source

DATA = bytes(264)


def header(**changes: Any) -> dict[str, Any]:
    """One tensor `a` of two float32 values, with some of its fields replaced."""
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


def test_reads_what_the_published_library_writes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "wide": random.standard_normal((5, 7)).astype(np.float32),
        "half": random.standard_normal((3, 4, 2)).astype(np.float16),
        "whole": np.arange(5),
        "none": np.zeros((0, 4), np.float32),
        "scalar": np.array(3.5, np.float32),
    }
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "np"})
    with open_source(tmp_path) as source:
        assert source.kind == "safetensors"
        assert source.path == tmp_path
        assert source.metadata == CONFIG
        assert set(source.names()) == set(arrays)
        for name, array in arrays.items():
            assert source.info(name).shape == array.shape
            assert source.raw(name).tobytes() == array.tobytes()
            source.release(name)
            if name != "whole":
                assert np.array_equal(source.dequantized(name), array.astype(np.float32))
        assert source.info("whole").dtype == "I64"
        with pytest.raises(Unsupported, match="type I64 cannot be used as weights"):
            source.dequantized("whole")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"1234567", "only 7 bytes"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "header of 9223372036854775808 bytes"),
        (b"PK\x03\x04" + bytes(60), "zip archive"),
        (b"\x80\x02}q\x00" + bytes(60), "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (safetensors_bytes(b"[]", b""), "no JSON object"),
        (safetensors_bytes(b'{"a"', b""), "broken JSON"),
        (safetensors_bytes(b'{"\xff"', b""), "not UTF-8"),
        (safetensors_bytes(b'{"a":' * 60_000, b""), "nested too deeply"),
        (safetensors_bytes(b'{"a":' + b"[" * 60_000, b""), "nested too deeply"),
        (safetensors_bytes(b'{"a":{},"a":{}}', b""), "'a' appears twice"),
        (safetensors_bytes(b'{"a":{"shape":[' + b"9" * 5_000 + b"]}}", b""), "broken JSON"),
        (safetensors_bytes({"__metadata__": {"a": 1}}, b""), "must map text to text"),
        (safetensors_bytes({"__metadata__": []}, b""), "must map text to text"),
        (safetensors_bytes({"a": []}, b""), "not described by an object"),
        (safetensors_bytes({"a\x1b[31m": {}}, b""), "unprintable"),
        (safetensors_bytes({"\ud800": {}}, b""), "unprintable"),
        (safetensors_bytes(header(shape=[-2]), bytes(8)), "has the shape"),
        (safetensors_bytes(header(shape=[True, 2]), bytes(8)), "has the shape"),
        (safetensors_bytes(header(shape=[2.0]), bytes(8)), "has the shape"),
        (safetensors_bytes(header(shape="2"), bytes(8)), "has the shape"),
        (safetensors_bytes(header(shape=[1] * 9 + [2]), bytes(8)), "has the shape"),
        (safetensors_bytes(header(shape=[1 << 50, 4]), bytes(8)), "does not fill 8 bytes"),
        (safetensors_bytes(header(shape=[1 << 61, 4]), bytes(8)), "has the shape"),
        (safetensors_bytes(header(shape=[0, 1 << 61], data_offsets=[0, 0]), b""), "has the shape"),
        (safetensors_bytes(header(shape=[3]), bytes(8)), "does not fill 8 bytes"),
        (safetensors_bytes(header(data_offsets=[8, 0]), bytes(8)), "has the byte range"),
        (safetensors_bytes(header(data_offsets=[0]), bytes(8)), "has the byte range"),
        (safetensors_bytes(header(data_offsets=[-8, 0]), bytes(8)), "has the byte range"),
        (safetensors_bytes(header(data_offsets=[4, 12]), bytes(12)), "leaves bytes before it to nobody"),
        (safetensors_bytes(header() | {"b": header()["a"]}, bytes(8)), "shares bytes"),
        (safetensors_bytes(header(), bytes(7)), "it is cut short"),
        (safetensors_bytes(header(), bytes(9)), "bytes that belong to no tensor"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BadFile, match=message) as caught:
        open_source(small_folder(tmp_path / "m", content))
    assert "model.safetensors" in str(caught.value)
    str(caught.value).encode()  # fit to be printed


@pytest.mark.parametrize("dtype", ["F4", "Q4_0", 3, None, "\x1b[31m"])
def test_unknown_types(tmp_path: Path, dtype: object) -> None:
    with pytest.raises(Unsupported, match="tensor `a` is of type"):
        open_source(small_folder(tmp_path / "m", safetensors_bytes(header(dtype=dtype), bytes(8))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "broken JSON"),
        (b"[]", "a JSON list where an object belongs"),
        (b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer"),
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (5 << 20), "larger than"),
    ],
)
def test_configurations_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    folder = small_folder(tmp_path / "m")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(BadFile, match=message) as caught:
        open_source(folder)
    assert "config.json" in str(caught.value)


def indexed(folder: Path, weight_map: object) -> Path:
    """A folder with two files of weights and an index over them."""
    small_folder(folder, small_safetensors()).joinpath("model.safetensors").rename(
        folder / "model-00001-of-00002.safetensors"
    )
    (folder / "model-00002-of-00002.safetensors").write_bytes(safetensors_bytes(header(), bytes(8)))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


FIRST = dict.fromkeys(SMALL_TENSORS, "model-00001-of-00002.safetensors")


def test_an_index_joins_files(tmp_path: Path) -> None:
    folder = indexed(tmp_path / "m", FIRST | {"a": "model-00002-of-00002.safetensors"})
    with open_source(folder) as source:
        assert set(source.names()) == {*SMALL_TENSORS, "a"}
        assert source.raw("a").tobytes() == bytes(8)


def test_a_file_outside_the_index_is_not_read(tmp_path: Path) -> None:
    folder = indexed(tmp_path / "m", FIRST)
    (folder / "consolidated.safetensors").write_bytes(b"not read")
    with open_source(folder) as source:
        assert set(source.names()) == set(SMALL_TENSORS)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../secret.safetensors"}, "only plain names"),
        ({"a": "/etc/x.safetensors"}, "only plain names"),
        ({"a": "sub/x.safetensors"}, "only plain names"),
        ({"a": "..\\x.safetensors"}, "only plain names"),
        ({"a": "c:x.safetensors"}, "only plain names"),
        ({"a": "x\0.safetensors"}, "only plain names"),
        ({"a": "config.json"}, "no .safetensors file"),
        ({"a": "model-00003-of-00003.safetensors"}, "the file is missing"),
        ({"b": "model-00002-of-00002.safetensors"}, "is not in"),
        ({"a": 1}, "must name a file"),
        ([], "must name a file"),
        (None, "must name a file"),
    ],
)
def test_indexes_that_lead_astray(tmp_path: Path, weight_map: object, message: str) -> None:
    (tmp_path / "secret.safetensors").write_bytes(safetensors_bytes(header(), bytes(8)))
    with pytest.raises(BadFile, match=message):
        open_source(indexed(tmp_path / "m", weight_map))


def test_several_files_without_an_index(tmp_path: Path) -> None:
    folder = indexed(tmp_path / "m", FIRST)
    (folder / "model.safetensors.index.json").unlink()
    with open_source(folder) as source:
        assert set(source.names()) == {*SMALL_TENSORS, "a"}
    (folder / "third.safetensors").write_bytes(safetensors_bytes(header(), bytes(8)))
    with pytest.raises(BadFile, match="tensor `a` is also in another file"):
        open_source(folder)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(safetensors_header(), DATA))
    with open_source(folder) as source:
        assert set(source.names()) == set(SMALL_TENSORS)
