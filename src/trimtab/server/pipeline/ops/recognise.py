"""recognise-text: strips of text to characters, greedily decoded (connectionist temporal classification).

The network costs what the widest strip of a batch costs, times the strips; so a batch is made of strips of
nearly the same width, from whichever pictures they are.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from trimtab import _native
from trimtab.server.pipeline.buffers import Array, Buffers
from trimtab.server.pipeline.networks import Network
from trimtab.server.pipeline.ops import base
from trimtab.server.pipeline.ops.crop import HEIGHT
from trimtab.server.pipeline.ops.fit import SCALE, SHIFT
from trimtab.server.pipeline.work import Item


class RecogniseSettings(base.Settings):
    """What strips are padded to."""

    least_width: int = Field(
        48, ge=16, le=2304, description="columns of a batch at least; rapidocr's own code pads to 320"
    )


class Recognise(base.ItemOp):
    """Strips to texts."""

    takes = ("crops",)
    gives = ("texts",)
    portable = True
    Settings = RecogniseSettings
    settings: RecogniseSettings

    def __init__(self, settings: dict[str, Any], threads: int, buffers: Buffers) -> None:
        super().__init__(settings, threads, buffers)
        self.network = Network("ppocr-recognise", threads)
        self.characters = np.array(self.network.characters, dtype=object)

    def key(self, unit: Item, bucket: int) -> Hashable:
        return -(-max(unit.width, self.settings.least_width) // bucket)

    def run(self, units: Sequence[Item], laps: base.Laps) -> None:
        width = max(self.settings.least_width, *(item.width for item in units))
        width = -(-width // 8) * 8  # the network's stride
        batch = self.buffers.take((len(units), 3, HEIGHT, width))
        for item, planes in zip(units, batch, strict=True):
            _native.image_planes(item.pixels, planes, item.width, SCALE, SHIFT, True)
        laps.mark("resized and normalised")
        found = self.network.run(batch)
        laps.mark("inference")
        self.buffers.give(batch)
        places, best = found.argmax(axis=2), found.max(axis=2)
        for item, classes, chances in zip(units, places, best, strict=True):
            item.text, item.score = read(self.characters, classes, chances)
        laps.mark("post")


def read(characters: Array, classes: Array, chances: Array) -> tuple[str, float]:
    """Text and mean probability of the best class of each step: repeats are one character, class 0 is none.

    References: Graves et al., ICML 2006.
    """
    kept = classes != 0
    kept[1:] &= classes[1:] != classes[:-1]
    if not kept.any():
        return "", 0.0
    return "".join(characters[classes[kept]]), float(chances[kept].mean())
