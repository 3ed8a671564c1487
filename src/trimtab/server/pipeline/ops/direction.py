"""text-direction: whether strips of text stand on their head; those that surely do are turned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from trimtab import _native
from trimtab.server.pipeline.buffers import Array, Buffers
from trimtab.server.pipeline.networks import Network
from trimtab.server.pipeline.ops import base
from trimtab.server.pipeline.ops.crop import HEIGHT
from trimtab.server.pipeline.ops.fit import SCALE, SHIFT
from trimtab.server.pipeline.work import Item

WIDTH = 192


class DirectionSettings(base.Settings):
    """When a strip is turned."""

    sure: float = Field(0.9, ge=0.5, le=1, description="least probability to turn a strip")
    path: Literal["native", "numpy"] = Field("native", description="one pass in C++, or Pillow and numpy")


class Direction(base.ItemOp):
    """Strips to strips the right way up."""

    takes = ("crops",)
    gives = ("turns",)
    portable = True
    Settings = DirectionSettings
    settings: DirectionSettings

    def __init__(self, settings: dict[str, Any], threads: int, buffers: Buffers) -> None:
        super().__init__(settings, threads, buffers)
        self.network = Network("ppocr-direction", threads)

    def run(self, units: Sequence[Item], laps: base.Laps) -> None:
        if self.settings.path == "numpy":
            batch = np.concatenate([_by_steps(item.pixels, laps) for item in units])
        else:
            batch = self.buffers.take((len(units), 3, HEIGHT, WIDTH))
            for item, planes in zip(units, batch, strict=True):
                _native.image_planes(item.pixels, planes, _width(item.pixels), SCALE, SHIFT, True)
            laps.mark("resized and normalised")
        found = self.network.run(batch)
        laps.mark("inference")
        for item, (_, over) in zip(units, found, strict=True):
            item.turned, item.turn_score = bool(over > self.settings.sure), float(over)
            if item.turned:
                item.pixels = np.ascontiguousarray(item.pixels[::-1, ::-1])
        self.buffers.give(batch)
        laps.mark("post")


def _width(pixels: Array) -> int:
    height, width = pixels.shape[:2]
    return min(WIDTH, max(1, math.ceil(HEIGHT * int(width) / int(height))))


def _by_steps(pixels: Array, laps: base.Laps) -> Array:
    """(1, 3, 48, 192) with Pillow and numpy."""
    from PIL import Image

    width = _width(pixels)
    small = np.asarray(Image.fromarray(pixels).resize((width, HEIGHT), Image.Resampling.BILINEAR))
    laps.mark("resized")
    batch = np.zeros((1, 3, HEIGHT, WIDTH), np.float32)
    batch[0, :, :, :width] = ((small[:, :, ::-1].astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)
    laps.mark("normalised")
    return batch
