"""Resize, crops and boxes of pictures against other people's code for the same thing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import _native

Image = pytest.importorskip("PIL.Image")
SIZES = st.integers(1, 70)


@given(height=SIZES, width=SIZES, to_height=SIZES, to_width=SIZES, seed=st.integers(0, 9), swap=st.booleans())
@settings(max_examples=60, deadline=None)
def test_resize_is_pillows_triangle_filter(
    height: int, width: int, to_height: int, to_width: int, seed: int, swap: bool
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    scale, shift, spare = (0.5, 0.25, 2.0), (-1.0, 0.0, 3.0), 3
    planes = np.full((3, to_height, to_width + spare), 7, np.float32)
    _native.image_planes(pixels, planes, to_width, scale, shift, swap)
    for channel in range(3):
        source = pixels[:, :, 2 - channel if swap else channel].astype(np.float32)
        wanted = Image.fromarray(source, mode="F").resize((to_width, to_height), Image.Resampling.BILINEAR)
        # Both add at most 141 * 141 products; a float32 sum of values below 256 errs by far less than 1e-2.
        expected = np.asarray(wanted) * scale[channel] + shift[channel]
        assert np.abs(planes[channel, :, :to_width] - expected).max() < 1e-2
    assert not planes[:, :, to_width:].any()


def test_resize_refuses_planes_that_are_too_small() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="too small"):
        _native.image_planes(pixels, np.zeros((3, 4, 4), np.float32), 5, (1, 1, 1), (0, 0, 0), False)
    empty = np.zeros((0, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="without pixels"):
        _native.image_planes(empty, np.zeros((3, 4, 4), np.float32), 4, (1, 1, 1), (0, 0, 0), False)


@given(
    corners=st.lists(st.floats(2, 57), min_size=8, max_size=8), seed=st.integers(0, 5),
    across=st.floats(1, 80), down=st.floats(1, 80),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_crops_stay_inside_what_the_picture_holds(
    corners: list[float], seed: int, across: float, down: float
) -> None:
    pixels = np.random.default_rng(seed).integers(40, 200, (60, 60, 3), np.uint8)
    out = np.zeros((12, 30, 3), np.uint8)
    _native.image_warp(pixels, corners, across, down, out)
    # Means and interpolations of pixels lie between the smallest and the largest of them.
    assert out.min() >= 40
    assert out.max() < 200


def test_a_straight_crop_of_its_own_size_is_the_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    out = np.zeros((20, 30, 3), np.uint8)
    _native.image_warp(pixels, [10, 5, 40, 5, 40, 25, 10, 25], 30, 20, out)
    assert np.array_equal(out, pixels[5:25, 10:40])


def test_a_turned_quadrilateral_turns_the_crop() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    out = np.zeros((20, 30, 3), np.uint8)
    # Corners of pixel centres, beginning at the other end: the same pixels upside down.
    _native.image_warp(pixels, [39, 24, 9, 24, 9, 4, 39, 4], 30, 20, out)
    assert np.array_equal(out, pixels[5:25, 10:40][::-1, ::-1])


@pytest.mark.parametrize("corner", [float("nan"), float("inf")])
def test_corners_must_be_numbers(corner: float) -> None:
    with pytest.raises(ValueError, match="no number"):
        _native.image_warp(
            np.zeros((4, 4, 3), np.uint8), [corner, *[1.0] * 7], 2, 2, np.zeros((2, 2, 3), np.uint8)
        )


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes, counted on a grid."""
    cv2 = pytest.importorskip("cv2")
    masks = []
    for box in (one, other):
        mask = np.zeros((400, 400), np.uint8)
        cv2.fillPoly(mask, [np.round(box).astype(np.int32)], 1)
        masks.append(mask.astype(bool))
    return float((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


@given(
    parts=st.lists(
        st.tuples(st.integers(0, 8), st.integers(12, 70), st.integers(8, 20), st.integers(-40, 40)),
        min_size=1, max_size=6,
    ),
    dilate=st.booleans(),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_boxes_are_those_of_rapidocrs_own_code(parts: list[tuple[int, int, int, int]], dilate: bool) -> None:
    cv2 = pytest.importorskip("cv2")
    published = pytest.importorskip("rapidocr.ch_ppocr_det.utils")
    image = np.zeros((400, 400), np.float32)
    for place, length, breadth, angle in {part[0]: part for part in parts}.values():
        centre = 70 + place % 3 * 130, 70 + place // 3 * 130
        corners = cv2.boxPoints((centre, (length, breadth), angle))
        cv2.fillPoly(image, [corners.astype(np.int32)], 0.95)
    reference = published.DBPostProcess(0.3, 0.5, 1000, 1.6, "fast", dilate)
    theirs, _ = reference(image[None, None], (400, 400))
    ours, scores = _native.text_boxes(image, 0.3, 0.5, 1.6, dilate, 1000)
    assert len(ours) == len(theirs)
    assert len(scores) == len(ours)
    for box in theirs:
        # Theirs is cut to whole pixels twice, which moves an edge of a box of 20 pixels by up to 2.
        assert max(overlap(box, mine) for mine in ours) > 0.8


@given(seed=st.integers(0, 30), height=st.integers(1, 40), width=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_any_map_has_boxes_of_finite_size(seed: int, height: int, width: int) -> None:
    source = np.random.default_rng(seed)
    image = source.random((height, width), np.float32)
    image[source.random((height, width)) < 0.1] = np.nan
    image[source.random((height, width)) < 0.05] = np.inf
    boxes, scores = _native.text_boxes(image, 0.5, 0.4, 1.6, True, 1000)
    assert boxes.shape == (len(scores), 4, 2)
    assert np.isfinite(boxes).all()


def test_parts_are_joined_over_corners() -> None:
    image = np.zeros((40, 40), np.float32)
    image[5:15, 5:15] = image[15:25, 15:25] = 1  # touch at one corner only
    boxes, _ = _native.text_boxes(image, 0.3, 0.1, 1.6, False, 10)
    assert len(boxes) == 1
    image[15, 15] = image[14, 14] = 0
    boxes, _ = _native.text_boxes(image, 0.3, 0.1, 1.6, False, 10)
    assert len(boxes) == 2
