"""The HTTP application of a pipeline: the same gate, limits, health and metrics as a language model has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

import trimtab
from trimtab.server import errors
from trimtab.server.access.gate import Gate
from trimtab.server.access.limits import BodyLimit
from trimtab.server.api import health
from trimtab.server.call import call_of
from trimtab.server.console.assets import Assets
from trimtab.server.pipeline import answer, page
from trimtab.server.pipeline.spec import PipelineSpec
from trimtab.server.watching.metrics import Metrics

if TYPE_CHECKING:
    from trimtab.server.operations import Operations
    from trimtab.server.pipeline.served import ServedPipeline
    from trimtab.server.served import Loading
    from trimtab.server.settings import ServeSettings


class _Nothing:
    """Where a language model's server keeps streams and files, a pipeline has none."""

    def stop(self) -> None:
        """No stream has to be ended."""

    def close(self) -> None:
        """No file has to be closed."""


def create_app(
    loading: Loading, settings: ServeSettings, operations: Operations, spec: PipelineSpec
) -> FastAPI:
    """The application.

    Parameters
    ----------
    loading : of a `ServedPipeline`
    spec : says which addresses there are
    """
    app = FastAPI(title="trimtab", version=trimtab.__version__, docs_url=None, redoc_url=None)
    app.add_middleware(
        BodyLimit, max_body_bytes=settings.max_body_bytes, max_file_bytes=settings.max_file_bytes
    )
    app.state.operations = operations
    app.state.live = app.state.kept = _Nothing()
    app.add_middleware(Gate, operations=operations)
    if settings.cors_origin:
        from trimtab.server.app import allow_pages

        allow_pages(app, settings.cors_origin)
    errors.install(app)

    async def served() -> ServedPipeline:
        return cast("ServedPipeline", await loading.served())

    async def picture(request: Request) -> Response:
        return await answer.create(request, await served(), settings)

    paths = ["/v1/vision"] + ["/v1/ocr"] * ("texts" in spec.gives)
    for path in paths:
        app.post(
            path, response_model=None, summary="What is in a picture", openapi_extra=_BODY,
            responses={200: {"model": answer.PictureAnswer}},
        )(picture)  # fmt: skip

    @app.get("/v1/models", response_model=None, summary="The pipeline served here")
    async def list_models(request: Request) -> Response:
        found = await served()
        allowed = call_of(request).may_use(cast(Any, found))
        card = {"id": found.name, "object": "model", "created": found.created, "owned_by": "trimtab"}
        return JSONResponse({"object": "list", "data": [card] if allowed else []})

    health.add_routes(app, loading, operations.lifecycle)
    _add_figures(app, loading, operations)
    _add_console(app)
    return app


_FILE = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _FILE,
            "application/octet-stream": _FILE,
            "application/json": {
                "schema": {
                    "type": "object", "required": ["image"], "additionalProperties": False,
                    "properties": {
                        "image": {"type": "string", "description": "base64, or a data URL"},
                        "model": {"type": "string"}, "user": {"type": "string"},
                        "trace": {"type": "boolean", "description": "tell where the time went"},
                        "deadline_ms": {"type": "number", "exclusiveMinimum": 0},
                    },
                }
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object", "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    },
    "parameters": [
        {"name": "trace", "in": "query", "schema": {"type": "boolean"},
         "description": "tell where the time went"},
    ],
}  # fmt: skip


def _add_figures(app: FastAPI, loading: Loading, operations: Operations) -> None:
    """`/metrics`, and what the console's page asks for."""
    metrics = Metrics()
    operations.listeners.append(metrics)

    @app.get("/metrics", response_model=None, summary="Figures in Prometheus's text format")
    async def scrape() -> Response:
        from trimtab.server.watching.metrics_page import page as common
        from trimtab.server.watching.prometheus import CONTENT_TYPE

        text = common(metrics, None, operations)
        if loading.ready:
            text += page.page(cast("ServedPipeline", await loading.served()))
        return Response(text, media_type=CONTENT_TYPE)

    @app.get("/console/api/pipeline", include_in_schema=False, response_model=None)
    async def figures(request: Request) -> Response:
        found = cast("ServedPipeline", await loading.served())
        tenant = call_of(request).tenant
        seen = found.pipeline.snapshot()
        del seen["latency"]  # is in /metrics, and has a bound that JSON cannot say
        if not tenant.admin:
            seen["recent"] = [one for one in seen["recent"] if one["tenant"] == tenant.name]
        return JSONResponse({"name": found.name, **seen})


def _add_console(app: FastAPI) -> None:
    """`/` is a page of stages and of the last requests."""
    assets = Assets()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
    async def console_page(request: Request) -> Response:
        return assets.answer(request, "pipeline.html")

    @app.api_route("/console/{name}", methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
    async def console_file(name: str, request: Request) -> Response:
        return assets.answer(request, name)
