"""The schemas of all answers, for the OpenAPI document. Loaded only when somebody reads that document."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from trimtab.server.schemas import ChatCompletion, Completion, ErrorAnswer, ModelCard, ModelList

_PLACE = "#/components/schemas/{model}"
_ANSWERS: dict[tuple[str, str], type[Any]] = {
    ("/v1/chat/completions", "post"): ChatCompletion,
    ("/v1/completions", "post"): Completion,
    ("/v1/models", "get"): ModelList,
    ("/v1/models/{name}", "get"): ModelCard,
}


def with_answers(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with the schema of every answer and of the one error shape in it."""
    kinds = [*_ANSWERS.values(), ErrorAnswer]
    inputs: list[tuple[Any, Any, TypeAdapter[Any]]]
    inputs = [(kind, "serialization", TypeAdapter(kind)) for kind in kinds]
    schemas, definitions = TypeAdapter.json_schemas(inputs, ref_template=_PLACE)
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components |= definitions.get("$defs", {})
    failed = _content(schemas[ErrorAnswer, "serialization"])
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            responses = operation["responses"]
            responses.pop("422", None)  # a body that does not validate is a 400 here, as at OpenAI
            responses["default"] = {"description": "what was wrong", **failed}
            if (kind := _ANSWERS.get((path, method))) is not None:
                responses["200"] |= _content(schemas[kind, "serialization"])
            if path.endswith("/completions"):
                responses["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return document


def _content(schema: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
