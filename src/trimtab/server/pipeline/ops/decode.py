"""decode-image: a file's bytes to pixels, upright, in RGB.

The `native` decoder is libjpeg-turbo through simplejpeg: it lets Python run meanwhile, writes into a buffer
that is there already, and scales JPEGs by 1/2, 1/4 or 1/8 while they are still frequencies, which leaves
most of the arithmetic out. Pillow has the same scaling behind `draft` but holds the interpreter for the
conversion and makes a new array each time; it decodes all other formats, and everything where `pillow` is
asked for.
"""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from pydantic import Field

from trimtab.server.pipeline.buffers import Array
from trimtab.server.pipeline.header import BadImage, Header
from trimtab.server.pipeline.ops import base
from trimtab.server.pipeline.work import Job

FACTORS = (8, 4, 2)


class DecodeSettings(base.Settings):
    """How pixels are made."""

    decoder: Literal["native", "pillow"] = Field("native", description="libjpeg-turbo or Pillow")
    side: int = Field(
        0,
        ge=0,
        description="scale a JPEG down while its longer side stays at least this; 0 decodes all of it",
    )


class Decode(base.JobOp):
    """Bytes to picture."""

    takes = ("bytes",)
    gives = ("image",)
    Settings = DecodeSettings
    settings: DecodeSettings

    def one(self, job: Job, laps: base.Laps) -> None:
        native = self.settings.decoder == "native" and job.header.format == "JPEG"
        try:
            image = self._turbo(job.body, job.header) if native else _pillow(job.body)
        # Each decoder has its own kinds of failure on damaged bytes; all of them are the sender's.
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise BadImage(f"the picture is damaged: {error}"[:300], "send it again", "image") from error
        job.values["image"] = image if job.header.orientation == 1 else upright(image, job.header.orientation)
        width, _ = job.header.upright
        job.values["scale"] = width / job.values["image"].shape[1]
        laps.mark("decoded")

    def _turbo(self, body: bytes, header: Header) -> Array:
        import simplejpeg

        height, width, factor = header.height, header.width, factor_for(header, self.settings.side)
        wanted = -(-height // factor), -(-width // factor)
        buffer = self.buffers.take((wanted[0] * wanted[1] * 3,), np.uint8)
        least: dict[str, Any] = {"min_height": wanted[0], "min_width": wanted[1], "min_factor": factor}
        try:
            image: Array = simplejpeg.decode_jpeg(
                body, colorspace="RGB", buffer=buffer, **(least if factor > 1 else {})
            )
        except ValueError:
            self.buffers.give(buffer)
            # CMYK and other rare kinds: valid, but not for the fast decoder. Damaged files fail there too.
            return _pillow(body)
        return image


def factor_for(header: Header, side: int) -> int:
    """The largest of 1, 2, 4, 8 that leaves the longer side at least `side`."""
    longer = max(header.width, header.height)
    return next((factor for factor in FACTORS if side and longer >= side * factor), 1)


def upright(image: Array, orientation: int) -> Array:
    """Undo the camera's orientation, EXIF 2 to 8."""
    if orientation in (2, 5, 7, 4):
        image = image[:, ::-1]
    turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(image, turns))


def _pillow(body: bytes) -> Array:
    from PIL import Image

    with Image.open(io.BytesIO(body)) as found:
        return np.array(found.convert("RGB"))
