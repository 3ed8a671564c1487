"""fit-to-network: a picture as the tensor a network takes: resized, normalised, planes instead of pixels.

`native` does all of it in one pass without Python; `numpy` does it step by step with Pillow and numpy, as
most services do, and is there to be compared with.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from trimtab import _native
from trimtab.server.pipeline.buffers import Array
from trimtab.server.pipeline.ops import base
from trimtab.server.pipeline.work import Job

MULTIPLE = 32  # what the networks' strides come to
# Channel by channel (value / 255 - 0.5) / 0.5, in the networks' own order: blue, green, red.
SCALE, SHIFT = (1 / 127.5,) * 3, (-1.0,) * 3


class FitSettings(base.Settings):
    """Size of the network's input."""

    side: int = Field(736, ge=32, le=4096, description="what `rule` is about, in pixels")
    rule: Literal["longest", "shortest"] = Field(
        "longest",
        description="longest: shrink until the longer side is at most `side`; shortest: enlarge "
        "until the shorter one is at least `side`",
    )
    path: Literal["native", "numpy"] = Field("native", description="one pass in C++, or Pillow and numpy")


def fitted(height: int, width: int, settings: FitSettings) -> tuple[int, int]:
    """Height and width of the network's input: multiples of 32, close to the picture's proportions."""
    ratio = 1.0
    if settings.rule == "longest" and max(height, width) > settings.side:
        ratio = settings.side / max(height, width)
    elif settings.rule == "shortest" and min(height, width) < settings.side:
        ratio = settings.side / min(height, width)
    sizes = (max(MULTIPLE, round(int(side * ratio) / MULTIPLE) * MULTIPLE) for side in (height, width))
    return tuple(sizes)  # type: ignore[return-value]


class Fit(base.JobOp):
    """Picture to tensor."""

    takes = ("image",)
    gives = ("tensor",)
    Settings = FitSettings
    settings: FitSettings

    def one(self, job: Job, laps: base.Laps) -> None:
        image: Array = job.values["image"]
        height, width = fitted(int(image.shape[0]), int(image.shape[1]), self.settings)
        if self.settings.path == "native":
            tensor = self.buffers.take((1, 3, height, width))
            _native.image_planes(image, tensor[0], width, SCALE, SHIFT, True)
            job.values["tensor"] = tensor
            laps.mark("resized and normalised")
            return
        from PIL import Image

        small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        laps.mark("resized")
        values = (np.asarray(small)[:, :, ::-1].astype(np.float32) / 255 - 0.5) / 0.5
        job.values["tensor"] = np.ascontiguousarray(values.transpose(2, 0, 1))[None]
        laps.mark("normalised")
