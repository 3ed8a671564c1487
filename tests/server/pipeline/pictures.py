"""Small pictures and pipelines for the tests."""

from __future__ import annotations

import io
import random
import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("simplejpeg")
Image = pytest.importorskip("PIL.Image")

from trimtab.server.pipeline.images import Page, Picture, page  # noqa: E402
from trimtab.server.pipeline.runtime import Pipeline  # noqa: E402
from trimtab.server.pipeline.spec import PipelineSpec, checked  # noqa: E402
from trimtab.server.pipeline.work import Job  # noqa: E402

OCR: list[dict[str, Any]] = [
    {"op": "decode-image", "name": "decode"},
    {"op": "fit-to-network", "name": "fit", "settings": {"side": 640}},
    {"op": "detect-text", "name": "detect"},
    {"op": "crop-boxes", "name": "crop"},
    {"op": "text-direction", "name": "direction", "batch": {"most": 8}},
    {"op": "recognise-text", "name": "recognise", "batch": {"most": 4}},
]
# The cheapest pipeline with a network: one crop, a millisecond.
DIRECTION: list[dict[str, Any]] = [
    {"op": "decode-image", "name": "decode"},
    {"op": "whole-image", "name": "whole"},
    {"op": "text-direction", "name": "direction"},
]


def spec_of(stages: list[dict[str, Any]], **more: Any) -> PipelineSpec:
    return checked({"name": "test", "stages": stages, **more})


def encoded(width: int = 60, height: int = 40, format: str = "JPEG", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    to = io.BytesIO()
    Image.fromarray(pixels).save(to, format, **options)
    return to.getvalue()


def text_page(**what: Any) -> Picture:
    return page(Page.model_validate(what), random.Random(1))


def through(pipeline: Pipeline, body: bytes, **options: Any) -> Job:
    """One picture through a pipeline; waits."""
    over = threading.Event()
    job = pipeline.submit(body, lambda job: over.set(), **options)
    assert over.wait(120)
    return job
