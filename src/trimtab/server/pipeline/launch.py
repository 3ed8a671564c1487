"""`trimtab serve pipeline.yaml`: a pipeline behind the server's own start, gate and end."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trimtab.errors import UsageError
from trimtab.server.launch import serve
from trimtab.server.pipeline import spec as specs

if TYPE_CHECKING:
    from fastapi import FastAPI

    from trimtab.server.operations import Operations
    from trimtab.server.served import Loading, Served
    from trimtab.server.settings import ServeSettings

HINT = "install them with `pip install 'trimtab[vision]'`"
NEEDED = ("onnxruntime", "PIL", "simplejpeg")


def serve_pipeline(settings: ServeSettings, announce: Callable[[Any, str], None]) -> int:
    """Serve the pipeline whose file `settings.model` names, until told to stop.

    Returns
    -------
    the signal that ended it

    Raises
    ------
    BadFile, UsageError : the file, or what it needs, cannot be had
    """
    if settings.memory_bytes is not None:
        raise UsageError(
            "--memory is a promise about a language model; a pipeline makes none",
            "bound it with `limits` in its file: `megapixels` and `waiting`", "memory_bytes",
        )  # fmt: skip
    spec = open_spec(Path(settings.model))
    if settings.threads is not None:
        spec = spec.model_copy(update={"cores": settings.threads})
    if settings.name is not None:
        spec = spec.model_copy(update={"name": settings.name})
    waiting = min(spec.limits.waiting, settings.max_queue)
    spec = spec.model_copy(update={"limits": spec.limits.model_copy(update={"waiting": waiting})})

    def load(_: ServeSettings, on_words_read: Callable[[], None]) -> Served:
        from trimtab.server.pipeline.runtime import Pipeline
        from trimtab.server.pipeline.served import ServedPipeline

        on_words_read()  # there is nothing whose memory the imports could tear apart
        for name in ("PIL.Image", "PIL.JpegImagePlugin", "simplejpeg", "trimtab.server.api.bodies"):
            importlib.import_module(name)  # not in the first request's time
        return cast("Served", ServedPipeline(spec.name, Pipeline(spec)))

    def create(loading: Loading, chosen: ServeSettings, operations: Operations) -> FastAPI:
        from trimtab.server.pipeline.app import create_app

        return create_app(loading, chosen, operations, spec)

    return serve(settings, load, announce, create=create)


def open_spec(path: Path) -> specs.PipelineSpec:
    """Read a pipeline's file, and see that what it needs is installed.

    Raises
    ------
    UsageError : a package is missing
    """
    from importlib.util import find_spec

    if lacking := [name for name in ("yaml", *NEEDED) if find_spec(name) is None]:
        raise UsageError(f"pipelines need more packages: {', '.join(lacking)}", HINT)
    return specs.load(path)
