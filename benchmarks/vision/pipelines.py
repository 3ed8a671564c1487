"""The pipelines and the pictures of this benchmark, all drawn from one seed."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from trimtab.server.pipeline.images import Mix, Page, Picture, page, pictures_of

SIDE, DECODE_SIDE = 960, 1600
LIMITS = {"waiting": 512, "megapixels": 50, "deadline_ms": 600_000}
# 3 KB, 80 KB, 600 KB and 1.7 MB, as photographs.
SIZES = {"64x48": (64, 48, 3), "500x375": (500, 375, 80), "1920x1440": (1920, 1440, 600),
         "4000x3000": (4000, 3000, 1700)}  # fmt: skip
FAN_OUT = (1, 8, 40)


def ocr(batch: Mapping[str, Any] | None = None, **recognise: Any) -> dict[str, Any]:
    """The reference pipeline; `recognise` changes its last stage."""
    return {
        "name": "ocr", "limits": LIMITS,
        "stages": [
            {"op": "decode-image", "name": "decode", "settings": {"side": DECODE_SIDE}},
            {"op": "fit-to-network", "name": "fit", "settings": {"side": SIDE}},
            {"op": "detect-text", "name": "detect"},
            {"op": "crop-boxes", "name": "crop"},
            {"op": "text-direction", "name": "direction", "batch": {"most": 16}},
            {"op": "recognise-text", "name": "recognise", "batch": dict(batch or {"most": 4}), **recognise},
        ],
    }  # fmt: skip


def detector(side: int, *, naive: bool, decode_side: int = 0) -> dict[str, Any]:
    """The detector alone."""
    decode = {"decoder": "pillow"} if naive else {"side": decode_side}
    return {
        "name": f"detect-{side}", "limits": LIMITS,
        "stages": [
            {"op": "decode-image", "name": "decode", "settings": decode},
            {"op": "fit-to-network", "name": "fit",
             "settings": {"side": side, "path": "numpy" if naive else "native"}},
            {"op": "detect-text", "name": "detect"},
        ],
    }  # fmt: skip


def direction() -> dict[str, Any]:
    """The direction classifier on whole pictures, step by step with Pillow and numpy."""
    return {
        "name": "direction", "limits": LIMITS,
        "stages": [
            {"op": "decode-image", "name": "decode", "settings": {"decoder": "pillow"}},
            {"op": "whole-image", "name": "whole"},
            {"op": "text-direction", "name": "direction", "settings": {"path": "numpy"}},
        ],
    }  # fmt: skip


@contextmanager
def written(*pipelines: Mapping[str, Any]) -> Iterator[list[Path]]:
    """Pipelines as files."""
    with tempfile.TemporaryDirectory(prefix="trimtab-vision-") as folder:
        places = [Path(folder) / f"{number}.yaml" for number in range(len(pipelines))]
        for place, content in zip(places, pipelines, strict=True):
            place.write_text(yaml.safe_dump(dict(content)), encoding="utf-8")
        yield places


@contextmanager
def files(pictures: Sequence[Picture]) -> Iterator[list[str]]:
    """Pictures as files."""
    with tempfile.TemporaryDirectory(prefix="trimtab-pictures-") as folder:
        places = [Path(folder) / str(number) for number in range(len(pictures))]
        for place, picture in zip(places, pictures, strict=True):
            place.write_bytes(picture.body)
        yield [str(place) for place in places]


def photos(*names: str) -> list[Picture]:
    """Photographs at the sizes of that name."""
    entries = [
        {"photo": {"width": width, "height": height, "kilobytes": kilobytes}}
        for width, height, kilobytes in (SIZES[name] for name in names)
    ]
    return pictures_of(Mix.model_validate({"seed": 1, "pictures": entries}))


def pages(lines: int, count: int, **more: Any) -> list[Picture]:
    """Pages of that many short lines."""
    what = Page.model_validate({"lines": lines, "width": 640, "height": 480, "font": 20, **more})
    return [page(what, random.Random(f"{lines} {number}")) for number in range(count)]
