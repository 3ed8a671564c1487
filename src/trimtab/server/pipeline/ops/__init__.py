"""The operations a stage can do, by name; each is loaded when a pipeline names it."""

from __future__ import annotations

import importlib

from trimtab.errors import UnknownName
from trimtab.server.pipeline.ops.base import Op

OPS = {
    "decode-image": "decode:Decode",
    "fit-to-network": "fit:Fit",
    "detect-text": "detect:Detect",
    "whole-image": "crop:Whole",
    "crop-boxes": "crop:Crop",
    "text-direction": "direction:Direction",
    "recognise-text": "recognise:Recognise",
}


def operation(name: str) -> type[Op]:
    """The class behind a name.

    Raises
    ------
    UnknownName : there is none
    """
    if name not in OPS:
        raise UnknownName(f"no operation {name!r}", f"there is {', '.join(OPS)}", "op")
    module, _, kind = OPS[name].partition(":")
    found: type[Op] = getattr(importlib.import_module(f"trimtab.server.pipeline.ops.{module}"), kind)
    return found
