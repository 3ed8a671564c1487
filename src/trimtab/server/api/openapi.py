"""The schemas of all answers and the endpoints of the table, for the OpenAPI document.

Loaded only when somebody reads that document: it imports every endpoint's module.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import TypeAdapter

from trimtab.server.api.schemas import ChatCompletion, Completion, ErrorAnswer, ModelCard, ModelList
from trimtab.server.endpoints import ENDPOINTS, LONG_LISTS, QUERY, Endpoint, load

_PLACE = "#/components/schemas/{model}"
_ANSWERS: dict[tuple[str, str], type[Any]] = {
    ("/v1/chat/completions", "post"): ChatCompletion,
    ("/v1/completions", "post"): Completion,
    ("/v1/models", "get"): ModelList,
    ("/v1/models/{name}", "get"): ModelCard,
}
_STREAMED = {"/v1/chat/completions", "/v1/completions", "/v1/responses"}
_EVENT = {
    "type": "object", "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}  # fmt: skip
"""Of a stream; OpenAPI before 3.2 has the schema of `text/event-stream` describe one event."""
_TEXT = {"/metrics"}


def with_answers(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with the table's endpoints, and the schema of every answer and of the one error shape."""
    answers = dict(_ANSWERS)
    requests: dict[tuple[str, str], tuple[str, type[Any]]] = {}
    for endpoint in ENDPOINTS:
        _, body, answer = load(endpoint)
        where = endpoint.path, endpoint.method.lower()
        document["paths"].setdefault(endpoint.path, {})[where[1]] = _operation(endpoint)
        if answer is not None:
            answers[where] = answer
        if body is not None:
            requests[where] = "application/json", body
        elif endpoint.upload:
            requests[where] = "multipart/form-data", getattr(_module(endpoint), endpoint.upload)

    schemas, definitions = _schemas(answers, requests)
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components |= definitions
    failed = _content(schemas[ErrorAnswer, "serialization"])
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            responses = operation["responses"]
            responses.pop("422", None)  # a body that does not validate is a 400 here, as at OpenAI
            responses["default"] = {"description": "what was wrong", **failed}
            if (kind := answers.get((path, method))) is not None:
                responses["200"] |= _content(schemas[kind, "serialization"])
            if path in _STREAMED:
                responses["200"]["content"]["text/event-stream"] = {"schema": _EVENT}
            if path in _TEXT:
                responses["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
            if (path, method) in requests:
                media, kind = requests[path, method]
                content = {media: {"schema": schemas[kind, "validation"]}}
                operation["requestBody"] = {"required": True, "content": content}
    return document


def _schemas(
    answers: dict[tuple[str, str], type[Any]], requests: dict[tuple[str, str], tuple[str, type[Any]]]
) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The schema of each type by (type, mode), and the definitions they share."""
    inputs: list[tuple[Any, Any, TypeAdapter[Any]]]
    inputs = [
        (kind, "serialization", TypeAdapter(kind)) for kind in dict.fromkeys([*answers.values(), ErrorAnswer])
    ]
    inputs += [
        (kind, "validation", TypeAdapter(kind))
        for kind in dict.fromkeys(kind for _, kind in requests.values())
    ]
    schemas, definitions = TypeAdapter.json_schemas(inputs, ref_template=_PLACE)
    return schemas, definitions.get("$defs", {})


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    """What the document says of one entry of the table, its schemas left out."""
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    for name in endpoint.query:
        schema = {key: value for key, value in QUERY[name].items() if key != "description"}
        if name == "limit" and endpoint.path in LONG_LISTS:
            schema["maximum"] = LONG_LISTS[endpoint.path]
        found = {"name": name, "in": "query", "required": False, "schema": schema}
        parameters.append(found | {"description": QUERY[name]["description"]})
    name = endpoint.target.replace(":", "_")
    operation: dict[str, Any] = {"summary": endpoint.summary, "operationId": name}
    if parameters:
        operation["parameters"] = parameters
    content = {} if endpoint.answer else {"content": {"application/octet-stream": {"schema": _BYTES}}}
    return operation | {"responses": {"200": {"description": "what was asked for", **content}}}


_BYTES = {"type": "string", "format": "binary"}


def _module(endpoint: Endpoint) -> Any:
    import importlib

    return importlib.import_module(f"trimtab.server.{endpoint.target.partition(':')[0]}")


def _content(schema: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
