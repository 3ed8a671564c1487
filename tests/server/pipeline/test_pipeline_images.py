"""Bytes that claim to be pictures: headers, decoders, and what hostile ones do."""

from __future__ import annotations

import io
import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import Image, encoded, text_page

from trimtab.errors import BadFile, TrimtabError
from trimtab.server.pipeline import images
from trimtab.server.pipeline.buffers import Buffers
from trimtab.server.pipeline.header import BadImage, Header, TooLarge, read
from trimtab.server.pipeline.ops.base import Laps
from trimtab.server.pipeline.ops.decode import Decode, factor_for, upright
from trimtab.server.pipeline.work import Job

GOOD = {
    "jpeg": encoded(), "gray": encoded(format="PNG", optimize=True), "webp": encoded(format="WEBP"),
    "progressive": encoded(progressive=True), "bmp": encoded(format="BMP"),
}  # fmt: skip
DECODERS = {name: Decode({"decoder": name, "side": 0}, 1, Buffers()) for name in ("native", "pillow")}


def decoded(body: bytes, decoder: str = "native", **settings: object) -> np.ndarray:
    op = Decode({"decoder": decoder, **settings}, 1, Buffers()) if settings else DECODERS[decoder]
    job = Job(body, read(body, 1.0), math.inf, lambda job: None)
    op.run([job], Laps())
    image: np.ndarray = job.values["image"]
    return image


@pytest.mark.parametrize("kind", GOOD)
def test_both_decoders_agree(kind: str) -> None:
    native, pillow = decoded(GOOD[kind]), decoded(GOOD[kind], "pillow")
    assert native.shape == pillow.shape == (40, 60, 3)
    # One library in two builds; inverse transform and colours may each be rounded apart by a step.
    assert np.abs(native.astype(int) - pillow).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone_as_pillow_does(orientation: int) -> None:
    from PIL import ImageOps

    image = Image.open(io.BytesIO(encoded(24, 16, "PNG")))
    exif = image.getexif()
    exif[0x0112] = orientation
    to = io.BytesIO()
    image.save(to, "PNG", exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(to)))
    assert read(to.getvalue(), 1).upright == (wanted.shape[1], wanted.shape[0])
    assert np.array_equal(decoded(to.getvalue()), wanted)
    if orientation > 1:
        assert np.array_equal(upright(np.asarray(image), orientation), wanted)


@pytest.mark.parametrize(("side", "factor"), [(0, 1), (4000, 1), (2001, 1), (2000, 2), (1000, 4), (320, 8)])
def test_pictures_are_scaled_while_they_stay_large_enough(side: int, factor: int) -> None:
    assert factor_for(Header("JPEG", 4000, 3000), side) == factor


def test_a_scaled_picture_is_the_picture_smaller() -> None:
    page = text_page(lines=2, width=640, height=480)
    small = decoded(page.body, side=160)
    assert small.shape == (120, 160, 3)
    whole = Image.fromarray(decoded(page.body)).resize((160, 120), Image.Resampling.BOX)
    # A quarter of the frequencies is a box filter's picture, but for what it leaves of the edges of letters.
    assert np.abs(small.astype(int) - np.asarray(whole)).mean() < 4


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(2000, 2000), (65_000, 65_000), (60_000, 1), (2**31 - 1, 2**31 - 1)])
def test_pixel_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    with pytest.raises((TooLarge, BadImage)) as refused:
        read(bomb(*size), 0.05 if size[1] == 1 else 3.0)
    assert 400 <= refused.value.http_status < 500


@pytest.mark.parametrize(
    "body", [b"", b"GIF89a" + b"\0" * 50, b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_picture_is_refused(body: bytes) -> None:
    with pytest.raises(BadImage):
        read(body, 1)


@given(
    kind=st.sampled_from([*GOOD]),
    cut=st.floats(0, 1), changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12),
    decoder=st.sampled_from(["native", "pillow"]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_damaged_pictures_decode_or_are_refused(
    kind: str, cut: float, changes: list[tuple[float, int]], decoder: str
) -> None:
    body = bytearray(GOOD[kind])
    for place, value in changes:
        body[int(place * (len(body) - 1))] = value
    body = body[: max(1, int(cut * len(body)))] if cut < 0.9 else body
    try:
        image = decoded(bytes(body), decoder)
    except TrimtabError as error:
        status = error.http_status
    else:
        assert image.dtype == np.uint8
        assert image.size <= 3e6 * 1.01
        status = 400
    assert 400 <= status < 500


def test_pages_are_drawn_from_their_seed() -> None:
    mix = images.Mix.model_validate(
        {"seed": 3, "pictures": [{"page": {"lines": 3}, "count": 2, "weight": 4}]}
    )
    first, again = images.pictures_of(mix), images.pictures_of(mix)
    assert [each.body for each in first] == [each.body for each in again]
    assert first[0].body != first[1].body
    assert [len(each.lines or ()) for each in first] == [3, 3]
    assert sum(each.weight for each in first) == 4
    assert images.drawn(first, 5, 1) == images.drawn(first, 5, 1)


@pytest.mark.parametrize("text", ["", "[]", '{"pictures": []}', '{"pictures": [{"pgae": {}}]}'])
def test_a_mix_that_is_none(tmp_path: object, text: str) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "mix.json"
    path.write_text(text)
    with pytest.raises(BadFile):
        images.load_mix(path)


def test_a_photograph_comes_near_the_bytes_asked_for() -> None:
    pytest.importorskip("sklearn")
    import random

    photo = images.photo(images.Photo(width=500, height=375, kilobytes=60), random.Random(0))
    assert 60_000 <= len(photo.body) <= 70_000
