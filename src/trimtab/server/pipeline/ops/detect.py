"""detect-text: the detector's map of text, and the boxes in it, sorted as one reads (arXiv 1911.08947)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from trimtab import _native
from trimtab.server.pipeline.buffers import Array, Buffers
from trimtab.server.pipeline.networks import Network
from trimtab.server.pipeline.ops import base
from trimtab.server.pipeline.work import Job

_SAME_LINE = 10  # pixels between the upper edges of boxes that stand on one line
_LEAST_SIDE = 4


class DetectSettings(base.Settings):
    """How boxes are taken from the map; the values that the network was published with."""

    threshold: float = Field(0.3, gt=0, lt=1, description="a pixel above this is text")
    box_threshold: float = Field(0.5, gt=0, lt=1, description="least mean of a box")
    unclip: float = Field(1.6, gt=0, le=5, description="how far boxes grow")
    dilate: bool = Field(True, description="thicken the map by a pixel, which joins letters")
    most: int = Field(1000, ge=1, description="boxes of one picture")


class Detect(base.Op):
    """Tensors to boxes; pictures of the same shape may share a batch."""

    takes = ("tensor", "image")
    gives = ("boxes",)
    Settings = DetectSettings
    settings: DetectSettings

    def __init__(self, settings: dict[str, Any], threads: int, buffers: Buffers) -> None:
        super().__init__(settings, threads, buffers)
        self.network = Network("ppocr-detect", threads)

    def key(self, unit: Job, bucket: int) -> Hashable:
        shape: tuple[int, ...] = unit.values["tensor"].shape
        return shape

    def run(self, units: Sequence[Job], laps: base.Laps) -> None:
        tensors = [job.values.pop("tensor") for job in units]
        batch = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
        maps = self.network.run(batch)
        for tensor in tensors:
            self.buffers.give(tensor)
        laps.mark("inference")
        chosen = self.settings
        for job, found in zip(units, maps, strict=True):
            height, width = job.values["image"].shape[:2]
            boxes, scores = _native.text_boxes(
                np.ascontiguousarray(found[0]), chosen.threshold, chosen.box_threshold, chosen.unclip,
                chosen.dilate, chosen.most,
            )  # fmt: skip
            job.values["boxes"], job.values["box_scores"] = placed(
                boxes, scores, (width / found.shape[2], height / found.shape[1]), (width, height)
            )
        laps.mark("boxes")


def placed(
    boxes: Array, scores: Array, ratio: tuple[float, float], size: tuple[int, int]
) -> tuple[Array, Array]:
    """Boxes of a map as boxes of its picture, in reading order; those of less than four pixels are left out.

    Parameters
    ----------
    boxes : float32 (n, 4, 2)
    ratio : picture over map, in x and y
    size : width and height of the picture
    """
    scaled = np.clip(np.round(boxes * np.asarray(ratio, np.float32)), 0, np.asarray(size, np.float32) - 1)
    across = np.linalg.norm(scaled[:, 0] - scaled[:, 1], axis=1)
    down = np.linalg.norm(scaled[:, 0] - scaled[:, 3], axis=1)
    kept = (across >= _LEAST_SIDE) & (down >= _LEAST_SIDE)
    scaled, scores = scaled[kept].astype(np.float32), scores[kept]
    order = np.argsort(scaled[:, 0, 1], kind="stable")
    lines = (
        np.concatenate([[0], np.cumsum(np.diff(scaled[order, 0, 1]) >= _SAME_LINE)]) if len(order) else order
    )
    order = order[np.lexsort((scaled[order, 0, 0], lines))]
    return scaled[order], scores[order]
