"""The HTTP application: addresses, what surrounds every request, and nothing about models.

Routes only fetch the model and hand over to `chat.py` and `completions.py`. Answers are written there too, so
that no answer is built twice; their schemas enter the OpenAPI document when somebody asks for it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

import trimtab
from trimtab.server import endpoints, errors
from trimtab.server.access.gate import Gate
from trimtab.server.access.limits import BodyLimit
from trimtab.server.api import chat, completions, health
from trimtab.server.api.schemas import ChatRequest, CompletionRequest, ModelCard, ModelList
from trimtab.server.call import call_of
from trimtab.server.console import api as console_api
from trimtab.server.console import assets, recording
from trimtab.server.operations import Operations
from trimtab.server.served import Loading, Served
from trimtab.server.settings import ServeSettings
from trimtab.server.storage.state import State
from trimtab.server.watching import metrics


def create_app(
    loading: Loading, settings: ServeSettings | None = None, operations: Operations | None = None
) -> FastAPI:
    """The OpenAI-compatible application.

    Parameters
    ----------
    loading : the model, there or on its way; `Loading.done(served)` for one that is there
    operations : keys, limits and whoever listens; by default as the settings say
    """
    settings = settings or ServeSettings.model_validate({})
    # The interactive pages load scripts from elsewhere, which a machine without a network cannot.
    app = FastAPI(title="trimtab", version=trimtab.__version__, docs_url=None, redoc_url=None)
    app.add_middleware(
        BodyLimit, max_body_bytes=settings.max_body_bytes, max_file_bytes=settings.max_file_bytes
    )
    app.state.operations = operations = operations or Operations.of(settings)
    app.add_middleware(Gate, operations=operations)
    if settings.cors_origin:
        allow_pages(app, settings.cors_origin)
    errors.install(app)

    # The answers are finished `Response` objects: FastAPI has nothing left to validate or convert.
    @app.post("/v1/chat/completions", response_model=None, summary="Continue a conversation")
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        return await chat.create(request, body, await loading.served())

    @app.post("/v1/completions", response_model=None, summary="Continue a text")
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        return await completions.create(request, body, await loading.served())

    @app.get("/v1/models", response_model=None, summary="The models served here")
    async def list_models(request: Request) -> Response:
        served = await loading.served()
        shown = [_card(served)] if call_of(request).may_use(served) else []
        models: ModelList = {"object": "list", "data": shown}
        return JSONResponse(models)

    @app.get("/v1/models/{name:path}", response_model=None, summary="One model")
    async def retrieve_model(name: str, request: Request) -> Response:
        served = await loading.served()
        served.check_name(name)
        call_of(request).check_model(served)
        return JSONResponse(_card(served))

    health.add_routes(app, loading, operations.lifecycle)
    metrics.add_routes(app, loading, operations)
    assets.add_routes(app)
    app.state.live = console_api.add_routes(app, loading)
    recording.add_routes(app, loading, operations)
    endpoints.add_routes(app, loading)
    State.of(settings).attach(app, loading, settings.max_body_bytes)
    _document_answers(app)
    return app


def allow_pages(app: FastAPI, origins: tuple[str, ...]) -> None:
    """Let pages of these origins call from a browser; outermost, so that refusals reach them too."""
    from starlette.middleware.cors import CORSMiddleware

    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after", "retry-after-ms", "x-ratelimit-*"],
        max_age=600,
    )


def _card(served: Served) -> ModelCard:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "trimtab",
        "max_model_len": served.context,
    }


def _document_answers(app: FastAPI) -> None:
    """Add the answers' schemas to /openapi.json when it is first asked for, not at start-up."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            from trimtab.server.api.openapi import with_answers

            app.openapi_schema = with_answers(plain())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
