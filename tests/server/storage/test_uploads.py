"""Multipart bodies cut anywhere: the file arrives byte for byte, and what is broken leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.server.errors import ApiError
from trimtab.server.storage.uploads import MAX_FIELD_BYTES, MAX_FIELDS, Upload, receive

KIND = "multipart/form-data; boundary=xyz"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    more = "" if filename is None else f'; filename="{filename}"'
    return (
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"
    )


def send(
    folder: Path, body: bytes, cuts: list[int] | None = None, kind: str = KIND, limit: int = 1 << 20
) -> Upload:
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts or ())})

    async def stream() -> AsyncIterator[bytes]:
        for start, end in pairwise(places):
            yield body[start:end]

    request: Any = SimpleNamespace(headers={"content-type": kind}, stream=stream)
    return asyncio.run(receive(request, folder, limit))


@given(st.binary(max_size=300), st.text(max_size=20), st.lists(st.integers(0, 2000), max_size=12))
def test_the_file_arrives_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, purpose: str, cuts: list[int]
) -> None:
    """Also when it holds what looks like a boundary."""
    folder = tmp_path_factory.mktemp("up")
    content += b"\r\n--xy\r\n--xyzz\r\n-"
    body = part("purpose", purpose.encode()) + part("file", content, "a b.jsonl") + b"--xyz--\r\n"
    got = send(folder, body, cuts)
    assert got.path.read_bytes() == content
    assert (got.size, got.filename) == (len(content), "a b.jsonl")
    assert got.fields == {"purpose": purpose}
    assert got.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("name", "kept"),
    [("/etc/passwd", "passwd"), ("..\\..\\x.jsonl", "x.jsonl"), ("", "file"), ("dir/", "file")],
)
def test_names_lose_their_folders(tmp_path: Path, name: str, kept: str) -> None:
    escaped = name.replace("\\", "\\\\")
    assert send(tmp_path, part("file", b"x", escaped) + b"--xyz--\r\n").filename == kept


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"", "application/json", "multipart/form-data"),
        (b"", "multipart/form-data", "boundary"),
        (b"nonsense", KIND, "broken"),
        (part("file", b"x" * 100, "a"), KIND, "ends before"),
        (part("file", b"x", "a")[:-20], KIND, "ends before"),
        (part("purpose", b"batch") + b"--xyz--\r\n", KIND, "'file'"),
        (part("file", b"no file name") + b"--xyz--\r\n", KIND, "'file'"),
        (part("file", b"1", "a") + part("file", b"2", "b") + b"--xyz--\r\n", KIND, "one file"),
        (part("purpose", b"x" * (MAX_FIELD_BYTES + 1)) + b"--xyz--\r\n", KIND, "too long"),
        (b"".join(part(f"f{i}", b"x") for i in range(MAX_FIELDS + 1)), KIND, "fields"),
        (b"--xyz\r\n" + b"A: " + b"b" * 10_000, KIND, "m"),
        (b"--xyz\r\n" + b"A: b\r\n" * 1000, KIND, "m"),
        (part("file", b"x" * 2000, "a") + b"--xyz--\r\n", KIND, "larger than"),
    ],
)
def test_broken_bodies_leave_nothing(tmp_path: Path, body: bytes, kind: str, says: str) -> None:
    with pytest.raises(ApiError, match=says) as caught:
        send(tmp_path, body, list(range(0, len(body), 7)), kind, limit=1000)
    assert caught.value.status in (400, 413)
    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_any_bytes_are_a_file_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("up")
    for body in (noise, b"--xyz\r\n" + noise, part("file", noise, "a")[:-3] + noise):
        with pytest.raises(ApiError) as caught:
            send(folder, body, cuts)
        assert caught.value.status in (400, 413)
