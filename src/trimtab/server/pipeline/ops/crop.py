"""crop-boxes and whole-image: the items of a picture, straightened to the height the networks read.

A box becomes a strip of 48 rows in one pass over the picture: perspective, resize and, for tall boxes, the
turn by a quarter. The picture itself is not needed after that.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from trimtab import _native
from trimtab.server.pipeline.buffers import Array
from trimtab.server.pipeline.ops import base
from trimtab.server.pipeline.work import Item, Job

HEIGHT = 48
_UPRIGHT = 1.5  # a box this much taller than wide holds text that runs down


class CropSettings(base.Settings):
    """Bounds of the strips."""

    widest: int = Field(2304, ge=48, le=8192, description="columns of a strip; longer lines are squeezed")


class Crop(base.JobOp):
    """Picture and boxes to strips."""

    takes = ("image", "boxes")
    gives = ("crops",)
    Settings = CropSettings
    settings: CropSettings

    def one(self, job: Job, laps: base.Laps) -> None:
        image: Array = job.values.pop("image")
        strips = (strip(image, box, self.settings.widest) for box in job.values["boxes"])
        job.items = [Item(job, index, pixels) for index, pixels in enumerate(strips)]
        scale = job.values.get("scale", 1.0)
        job.values["boxes"] = job.values["boxes"] * np.float32(scale)
        self.buffers.give(image)
        laps.mark("cropped")


def strip(image: Array, box: Array, widest: int) -> Array:
    """A box of a picture as uint8 (48, width, 3); `box` is (4, 2), clockwise from the top left."""
    across = float(max(np.linalg.norm(box[0] - box[1]), np.linalg.norm(box[2] - box[3])))
    down = float(max(np.linalg.norm(box[0] - box[3]), np.linalg.norm(box[1] - box[2])))
    across, down = max(1.0, math.floor(across)), max(1.0, math.floor(down))
    if down >= _UPRIGHT * across:
        box, across, down = np.roll(box, -1, axis=0), down, across
    width = min(widest, max(1, math.ceil(HEIGHT * across / down)))
    pixels = np.empty((HEIGHT, width, 3), np.uint8)
    _native.image_warp(image, [float(value) for value in box.ravel()], across, down, pixels)
    return pixels


class Whole(base.JobOp):
    """The picture itself as its only item, for classifiers of whole pictures."""

    takes = ("image",)
    gives = ("crops",)

    def one(self, job: Job, laps: base.Laps) -> None:
        job.items = [Item(job, 0, job.values.pop("image"))]
        laps.mark("cropped")
