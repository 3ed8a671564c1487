"""Endpoints whose modules are imported when they are first called: a server starts as fast without them.

A table, not decorators: the OpenAPI document describes the same entries. Nothing here knows what an endpoint
does.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

    from trimtab.server.served import Loading


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address.

    Parameters
    ----------
    target : `module:function` below this package, called with the request, its body
        (if it has one) and the model
    body, answer : names of their types in the target's module
    upload : name of the type that describes a multipart body, which the target reads itself
    query : names of its query parameters, described in `QUERY`
    """

    method: str
    path: str
    target: str
    summary: str
    body: str = ""
    answer: str = ""
    query: tuple[str, ...] = ()
    upload: str = ""


ENDPOINTS = (
    Endpoint(
        "POST", "/tokenize", "api.tokenize:tokenize", "Token ids of a text or a conversation",
        "TokenizeRequest", "Tokenized",
    ),
    Endpoint(
        "POST", "/detokenize", "api.tokenize:detokenize", "The text of token ids",
        "DetokenizeRequest", "Detokenized",
    ),
    Endpoint(
        "GET", "/tokenizer_info", "api.tokenize:info", "Special tokens, template", answer="TokenizerInfo",
    ),
    Endpoint(
        "POST", "/v1/embeddings", "api.embeddings:create", "Vectors of texts", "EmbeddingsRequest",
        "Embeddings"
    ),
    Endpoint(
        "POST", "/v1/responses", "api.responses:create", "The next turn of a conversation",
        "ResponseRequest", "Response",
    ),
    Endpoint(
        "POST", "/v1/responses/input_tokens", "api.responses:count", "Tokens of a conversation",
        "ResponseRequest", "InputTokenCount",
    ),
    Endpoint(
        "GET", "/v1/responses/{response_id}", "api.responses:retrieve", "A kept answer", answer="Response",
    ),
    Endpoint(
        "DELETE", "/v1/responses/{response_id}", "api.responses:delete", "Forget an answer",
        answer="ResponseDeleted",
    ),
    Endpoint(
        "GET", "/v1/responses/{response_id}/input_items", "api.responses:input_items", "What it answers",
        answer="InputItems", query=("after", "limit", "order"),
    ),
    Endpoint(
        "POST", "/v1/files", "storage.files:upload", "Keep a file", "", "FileObject", upload="FileUpload",
    ),
    Endpoint(
        "GET", "/v1/files", "storage.files:list_files", "One's files", answer="FileList",
        query=("after", "limit", "order", "purpose"),
    ),
    Endpoint("GET", "/v1/files/{file_id}", "storage.files:retrieve", "About a file", answer="FileObject"),
    Endpoint("GET", "/v1/files/{file_id}/content", "storage.files:content", "The bytes of a file"),
    Endpoint("DELETE", "/v1/files/{file_id}", "storage.files:delete", "Forget a file", answer="FileDeleted"),
    Endpoint(
        "POST", "/v1/batches", "storage.batches:create", "Answer a file of requests", "BatchRequest", "Batch",
    ),
    Endpoint(
        "GET", "/v1/batches", "storage.batches:list_batches", "One's batches", answer="BatchList",
        query=("after", "limit"),
    ),
    Endpoint(
        "GET", "/v1/batches/{batch_id}", "storage.batches:retrieve", "How far a batch is", answer="Batch",
    ),
    Endpoint(
        "POST", "/v1/batches/{batch_id}/cancel", "storage.batches:cancel", "End a batch early",
        answer="Batch",
    ),
)  # fmt: skip

QUERY: dict[str, dict[str, Any]] = {
    "after": {"type": "string", "description": "list what comes after the entry of this id"},
    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "description": "entries of a page"},
    "order": {"type": "string", "enum": ["asc", "desc"], "description": "oldest or newest first"},
    "purpose": {"type": "string", "description": "list files of this purpose only"},
}
LONG_LISTS = {"/v1/files": 10_000}
"""Where a page may have more entries than `limit` says above."""


def add_routes(app: FastAPI, loading: Loading) -> None:
    """Add every endpoint of the table to `app`."""
    app.router.routes.extend(
        Route(one.path, _handler(one, loading), methods=[one.method], include_in_schema=False)
        for one in ENDPOINTS
    )


def load(endpoint: Endpoint) -> tuple[Callable[..., Awaitable[Response]], Any, Any]:
    """The function behind an endpoint, and the types of its body and its answer (None without)."""
    name, _, function = endpoint.target.partition(":")
    module = importlib.import_module(f"trimtab.server.{name}")
    return getattr(module, function), *(
        getattr(module, kind) if kind else None for kind in (endpoint.body, endpoint.answer)
    )


def _handler(endpoint: Endpoint, loading: Loading) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        function, kind, _ = load(endpoint)
        if kind is None:
            return await function(request, await loading.served())
        from trimtab.server.api.bodies import body_of

        return await function(request, await body_of(request, kind), await loading.served())

    return handle
