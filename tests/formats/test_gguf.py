"""The GGUF reader against the published writer, and against headers that lie."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hand_made import ARRAY, BOOL, STRING, UINT8, UINT16, UINT32, KeyValue, Tensor, gguf_bytes, small_gguf

from trimtab.errors import BadFile, Unsupported
from trimtab.formats import gguf as reader
from trimtab.formats.ggml_types import GGUF_TYPES
from trimtab.formats.source import open_source


def write(path: Path, metadata: list[KeyValue], tensors: list[Tensor], **options: int) -> Path:
    path.write_bytes(gguf_bytes(metadata, tensors, **options).data)
    return path


def test_reads_what_the_published_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_token_list(["a", "é", "\N{GRINNING FACE}", ""])
    writer.add_token_scores([0.5, -1.0, 2.0, 0.0])
    writer.add_bool("flag", True)
    writer.add_uint64("big", 1 << 60)
    random = np.random.default_rng(0)
    arrays = {}
    for name, kind in GGUF_TYPES.items():
        number = gguf.GGMLQuantizationType(kind.number)
        raw = random.integers(0, 60, (3, kind.size(512)), dtype=np.uint8)
        writer.add_tensor(f"{name}.weight", raw, raw_dtype=number)
        arrays[name] = raw
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with open_source(path) as source:
        assert source.kind == "gguf"
        assert source.path == path
        assert source.metadata["general.name"] == "tiny"
        assert source.metadata["tokenizer.ggml.tokens"] == ["a", "é", "\N{GRINNING FACE}", ""]
        assert source.metadata["tokenizer.ggml.scores"] == [0.5, -1.0, 2.0, 0.0]
        assert source.metadata["flag"] is True
        assert source.metadata["big"] == 1 << 60
        assert source.names() == [f"{name}.weight" for name in GGUF_TYPES]
        for name, raw in arrays.items():
            info = source.info(f"{name}.weight")
            assert (info.shape, info.dtype, info.nbytes) == ((3, 512), name, raw.size)
            assert np.array_equal(source.raw(info.name), raw.reshape(-1))
            expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
            source.release(info.name)
            assert np.array_equal(source.dequantized(info.name), expected)
            assert not source.raw(info.name).flags.writeable


def test_every_metadata_type(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(small_gguf().data)
    with open_source(path) as source:
        assert source.metadata["test.nested"] == [[1, 2], ["x", ""]]
        assert source.metadata["test.flags"] == [True, False]
        assert source.metadata["test.byte"] == -3
        assert source.metadata["test.short"] == -300
        assert source.metadata["test.long"] == -(1 << 40)
        assert source.metadata["llama.rope.freq_base"] == 1e4
        with pytest.raises(BadFile, match="no tensor `lost`"):
            source.info("lost")


def test_version_2_and_other_alignments(tmp_path: Path) -> None:
    tensors: list[Tensor] = [("a", (3,), 0, bytes(12)), ("b", (2, 2), 1, bytes(range(8)))]
    options: list[KeyValue] = [("general.alignment", UINT32, 8)]
    with open_source(write(tmp_path / "m.gguf", options, tensors, version=2, alignment=8)) as source:
        assert source.info("b").shape == (2, 2)
        assert source.raw("b").tolist() == list(range(8))


def test_arrays_outlive_the_source(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "m.gguf", [], [("a", (4,), 0, bytes(range(16)))]))
    raw = source.raw("a")
    source.close()
    source.close()
    assert raw.tolist() == list(range(16))


ONE: list[Tensor] = [("a", (32,), 2, bytes(18))]


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ([("k", UINT8, 1), ("k", UINT8, 1)], ONE, "`k` appears twice"),
        ([("a\nb", UINT8, 1)], ONE, "unprintable"),
        ([("general.alignment", UINT32, 24)], ONE, "power of two"),
        ([("general.alignment", STRING, "x" * 500)], ONE, "power of two"),
        ([("k", STRING, b"\xff")], ONE, "not UTF-8"),
        ([("k", ARRAY, (STRING, ["fine", b"\xff"]))], ONE, "not UTF-8"),
        ([("k", UINT8 + 13, b"")], ONE, None),
        ([], [*ONE, *ONE], "same name"),
        ([], [("a\x1b[31m", (32,), 2, bytes(18))], "unprintable"),
        ([], [("a", (31,), 2, bytes(18))], "rows of 31 weights do not fill Q4_0 blocks of 32"),
        ([], [("a", (0,), 0, b"")], "impossible shape"),
        ([], [("a", (1 << 33, 1 << 33), 0, b"")], "impossible shape"),
        ([], [("a", (1 << 40,), 0, b"")], "ends at byte"),
        ([], [("a", (), 0, b"")], "has 0 dimensions"),
        ([], [("a", (1,) * 5, 0, bytes(4))], "has 5 dimensions"),
    ],
)
def test_contradictions_are_named(
    tmp_path: Path, metadata: list[KeyValue], tensors: list[Tensor], message: str | None
) -> None:
    if message is None:  # a type number beyond the last
        file = gguf_bytes([("k", UINT8, 1)], tensors)
        file.data[24 + 9 : 24 + 13] = struct.pack("<I", 13)
        (tmp_path / "m.gguf").write_bytes(file.data)
        message = "unknown type 13"
    else:
        write(tmp_path / "m.gguf", metadata, tensors)
    with pytest.raises(BadFile, match=message) as caught:
        open_source(tmp_path / "m.gguf")
    assert "m.gguf" in str(caught.value)


@pytest.mark.parametrize(
    ("position", "code", "value", "message"),
    [
        (8, "Q", 1 << 63, "9223372036854775808 tensors"),
        (16, "Q", 1 << 40, "1099511627776 metadata keys"),
        (24, "Q", (1 << 64) - 1, "claims 18446744073709551615 bytes"),
        (24 + 9 + 4, "I", 99, "array of unknown type 99"),
        (24 + 9 + 8, "Q", 1 << 50, "array entries"),
        (24 + 9 + 16, "Q", 1 << 50, "a string is longer than the rest of the file"),
    ],
)
def test_hostile_counts_and_lengths(
    tmp_path: Path, position: int, code: str, value: int, message: str
) -> None:
    file = gguf_bytes([("k", ARRAY, (STRING, ["one", "two"]))], ONE)
    data = file.data
    data[position : position + struct.calcsize(code)] = struct.pack("<" + code, value)
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(BadFile, match=message) as caught:
        open_source(tmp_path / "m.gguf")
    assert caught.value.offset is not None


def test_tensors_that_share_bytes_or_lie_askew(tmp_path: Path) -> None:
    two: list[Tensor] = [("a", (16,), 0, bytes(64)), ("b", (16,), 0, bytes(64))]
    file = gguf_bytes([], two)
    last = file.fields[-1][0]
    for offset, message in ((32, "`a` and `b` share bytes"), (65, "no multiple of the alignment 32")):
        file.data[last : last + 8] = struct.pack("<Q", offset)
        (tmp_path / "m.gguf").write_bytes(file.data)
        with pytest.raises(BadFile, match=message):
            open_source(tmp_path / "m.gguf")


def test_arrays_nested_without_end(tmp_path: Path) -> None:
    value: tuple[int, list[object]] = (UINT8, [])
    for _ in range(50):
        value = (ARRAY, [value])
    with pytest.raises(BadFile, match="nested deeper than 4"):
        open_source(write(tmp_path / "m.gguf", [("k", ARRAY, value)], ONE))


def test_entries_are_limited_over_all_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_ENTRIES", 5)
    entries: list[KeyValue] = [(name, ARRAY, (UINT8, [1, 2, 3])) for name in ("k", "l")]
    with pytest.raises(BadFile, match="announces 3 array entries"):
        open_source(write(tmp_path / "m.gguf", entries, ONE))


@pytest.mark.parametrize(
    ("version", "message"),
    [(1, "version 1"), (4, "version 4"), (3 << 24, "big-endian"), (2 << 24, "big-endian")],
)
def test_other_versions(tmp_path: Path, version: int, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        open_source(write(tmp_path / "m.gguf", [], ONE, version=version))


@pytest.mark.parametrize(
    ("number", "message"), [(23, "type IQ4_XS"), (4, "unknown type 4"), (999, "type 999")]
)
def test_types_that_are_not_read(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        open_source(write(tmp_path / "m.gguf", [], [("a", (256,), number, bytes(256))]))


def split(
    folder: Path, change: Callable[[int, list[KeyValue]], None] = lambda part, metadata: None
) -> list[Path]:
    """A model in three parts of one tensor each."""
    paths = []
    for part in range(3):
        metadata: list[KeyValue] = [("split.no", UINT16, part), ("split.count", UINT16, 3)]
        if part == 0:
            metadata += [("split.tensors.count", UINT32, 3), ("general.architecture", STRING, "llama")]
        change(part, metadata)
        path = folder / f"big-{part + 1:05d}-of-00003.gguf"
        paths.append(write(path, metadata, [(f"t{part}", (8,), 0, bytes([part] * 32))]))
    return paths


@pytest.mark.parametrize("opened", [0, 1, 2, None])
def test_any_part_opens_the_whole(tmp_path: Path, opened: int | None) -> None:
    paths = split(tmp_path)
    with open_source(tmp_path if opened is None else paths[opened]) as source:
        assert source.names() == ["t0", "t1", "t2"]
        assert source.metadata["general.architecture"] == "llama"
        assert [int(source.raw(f"t{part}")[0]) for part in range(3)] == [0, 1, 2]


def test_parts_that_do_not_fit_together(tmp_path: Path) -> None:
    paths = split(tmp_path)
    paths[1].unlink()
    with pytest.raises(BadFile, match=r"big-00002-of-00003\.gguf: the file is missing"):
        open_source(paths[0])

    def renumber(part: int, metadata: list[KeyValue]) -> None:
        metadata[0] = ("split.no", UINT16, 0)

    with pytest.raises(BadFile, match="metadata disagrees"):
        open_source(split(tmp_path, renumber)[0])

    def announce(part: int, metadata: list[KeyValue]) -> None:
        if part == 0:
            metadata[2] = ("split.tensors.count", UINT32, 9)

    with pytest.raises(BadFile, match="hold 3 tensors, 9 were announced"):
        open_source(split(tmp_path, announce)[2])

    with pytest.raises(BadFile, match="name does not say which"):
        open_source(split(tmp_path)[0].rename(tmp_path / "renamed.gguf"))

    def boolean(part: int, metadata: list[KeyValue]) -> None:
        metadata[1] = ("split.count", BOOL, True)

    with pytest.raises(BadFile, match="whole number"):
        open_source(split(tmp_path, boolean)[0])


def test_the_default_model(default_model: Path) -> None:
    with open_source(default_model) as source:
        tensors = gguf.GGUFReader(default_model).tensors
        assert source.names() == [tensor.name for tensor in tensors]
        for tensor in tensors[:8]:
            assert source.info(tensor.name).shape == tuple(int(size) for size in tensor.shape[::-1])
            assert np.array_equal(source.raw(tensor.name), tensor.data.reshape(-1).view(np.uint8))
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(source.dequantized(tensor.name), expected)
        assert len(source.metadata["tokenizer.ggml.tokens"]) == 49_152
