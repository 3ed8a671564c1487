"""The HTTP application: addresses, what surrounds every request, and nothing about models.

Routes only fetch the model and hand over to `chat.py` and `completions.py`. Answers are written there too, so
that no answer is built twice; their schemas enter the OpenAPI document when somebody asks for it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

import trimtab
from trimtab.server import assets, chat, completions, console_api, endpoints, errors
from trimtab.server.limits import BodyLimit
from trimtab.server.schemas import ChatRequest, CompletionRequest, ModelCard, ModelList
from trimtab.server.served import Loading, Served

DEFAULT_MAX_BODY_BYTES = 32 * 2**20


def create_app(loading: Loading, max_body_bytes: int = DEFAULT_MAX_BODY_BYTES) -> FastAPI:
    """The OpenAI-compatible application.

    Parameters
    ----------
    loading : the model, there or on its way; `Loading.done(served)` for one that is there
    max_body_bytes : larger request bodies are refused with 413
    """
    # The interactive pages load scripts from elsewhere, which a machine without a network cannot.
    app = FastAPI(title="trimtab", version=trimtab.__version__, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, max_body_bytes=max_body_bytes)
    errors.install(app)

    # The answers are finished `Response` objects: FastAPI has nothing left to validate or convert.
    @app.post("/v1/chat/completions", response_model=None, summary="Continue a conversation")
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        return await chat.create(request, body, await loading.served())

    @app.post("/v1/completions", response_model=None, summary="Continue a text")
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        return await completions.create(request, body, await loading.served())

    @app.get("/v1/models", response_model=None, summary="The models served here")
    async def list_models() -> Response:
        models: ModelList = {"object": "list", "data": [_card(await loading.served())]}
        return JSONResponse(models)

    @app.get("/v1/models/{name:path}", response_model=None, summary="One model")
    async def retrieve_model(name: str) -> Response:
        served = await loading.served()
        served.check_name(name)
        return JSONResponse(_card(served))

    @app.get("/health", response_model=None, summary="200 once the model is loaded, 503 before")
    async def health() -> Response:
        if not loading.ready:
            return JSONResponse({"status": "loading"}, 503, {"Retry-After": str(errors.RETRY_AFTER_S)})
        return JSONResponse({"status": "ok"})

    assets.add_routes(app)
    app.state.live = console_api.add_routes(app, loading)
    endpoints.add_routes(app, loading)
    _document_answers(app)
    return app


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
            from trimtab.server.openapi import with_answers

            app.openapi_schema = with_answers(plain())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
