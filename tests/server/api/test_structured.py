"""Answers in a required form, over HTTP: the official client, a real server, a model that spells nonsense."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from pydantic import BaseModel

HELLO: Any = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "maximum": 99}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


def formatted(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema} | more}


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as made:
        yield made


def said(client: openai.OpenAI, **asked: Any) -> Any:
    given = {"model": "speller", "messages": HELLO, "max_tokens": 120} | asked
    return client.chat.completions.create(**given)


@pytest.mark.parametrize("strict", [{}, {"strict": True}, {"strict": False}, {"description": "a place"}])
def test_json_schema(client: openai.OpenAI, strict: dict[str, Any]) -> None:
    choice = said(client, response_format=formatted(SCHEMA, **strict)).choices[0]
    assert choice.finish_reason == "stop"
    jsonschema.validate(json.loads(choice.message.content), SCHEMA)


def test_the_clients_own_parsing(client: openai.OpenAI) -> None:
    class Color(BaseModel):
        red: bool
        name: str | None

    answer = client.chat.completions.parse(
        model="speller", messages=HELLO, response_format=Color, max_tokens=400
    )
    assert isinstance(answer.choices[0].message.parsed, Color)


def test_streams_say_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"response_format": formatted(SCHEMA), "seed": 3, "n": 2}
    whole = said(client, **asked)
    texts = ["", ""]
    finish = {}
    for chunk in said(client, stream=True, **asked):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finish[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert set(finish.values()) == {"stop"}


def test_json_objects(client: openai.OpenAI) -> None:
    for most in (5, 30, 100):
        choice = said(client, response_format={"type": "json_object"}, max_tokens=most).choices[0]
        assert isinstance(json.loads(choice.message.content), dict)


def test_the_limit_gives_whole_json_and_says_length(client: openai.OpenAI) -> None:
    schema = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    choice = said(client, response_format=formatted(schema), max_tokens=20).choices[0]
    assert choice.finish_reason == "length"
    jsonschema.validate(json.loads(choice.message.content), schema)


def test_logprobs_of_every_token(client: openai.OpenAI) -> None:
    answer = said(client, response_format=formatted(SCHEMA), logprobs=True, top_logprobs=2)
    entries = answer.choices[0].logprobs.content
    text = b"".join(bytes(entry.bytes) for entry in entries).decode()
    assert text == answer.choices[0].message.content


@pytest.mark.parametrize(
    ("extra", "form"),
    [
        ({"guided_regex": "(ab|c){2,3}"}, "(ab|c){2,3}"),
        ({"guided_choice": ["red", "green"]}, "red|green"),
        ({"guided_grammar": 'start: "x"{3,5}'}, "x{3,5}"),
        ({"guided_json": {"const": [1, "x"]}}, r'\[1, "x"\]'),
        ({"guided_json": '{"const": null}'}, "null"),
        ({"structured_outputs": {"regex": "[0-9]{4}"}}, "[0-9]{4}"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"json": {"enum": [1, 2]}}}, "[12]"),
        ({"structured_outputs": {"json_object": True}}, r"(?s)\{.*\}"),
        ({"structured_outputs": {"grammar": 'start: "a" | "b"'}}, "[ab]"),
        ({"response_format": {"type": "text"}}, "(?s).{20,}"),
    ],
)
def test_fields_of_other_servers(client: openai.OpenAI, extra: dict[str, Any], form: str) -> None:
    chat = said(client, extra_body=extra, max_tokens=40).choices[0].message.content
    text = (
        client.completions.create(model="speller", prompt="x", max_tokens=40, extra_body=extra)
        .choices[0]
        .text
    )
    assert re.fullmatch(form, chat)
    assert re.fullmatch(form, text)


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ({"response_format": {}}, "response_format.type", "Missing required parameter"),
        ({"response_format": {"type": 3}}, "response_format.type", "expected a string"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "Supported values are: 'text'"),
        ({"response_format": {"type": "text", "x": 1}}, "response_format.x", "Unknown parameter"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Missing"),
        ({"response_format": formatted(SCHEMA, name="a b")}, "response_format.json_schema.name", "pattern"),
        ({"response_format": formatted(3)}, "response_format.json_schema.schema", "expected an object"),
        (
            {"response_format": formatted(SCHEMA, strict="yes")},
            "response_format.json_schema.strict",
            "a boolean",
        ),
        (
            {"response_format": formatted({"uniqueItems": True})},
            "response_format",
            "for response_format 'answer'",
        ),
        ({"response_format": formatted({"type": "object", "required": 3})}, "response_format", "answer"),
        ({"guided_regex": "(a"}, "guided_regex", "unclosed group"),
        ({"guided_choice": []}, "guided_choice", "at least one text"),
        ({"guided_json": {"not": {}}}, "guided_json", "not"),
        ({"structured_outputs": {"xml": "a"}}, "structured_outputs.xml", "Unknown parameter"),
        ({"structured_outputs": {"regex": 3}}, "structured_outputs.regex", "Invalid type"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "both given"),
        ({"guided_regex": "a", "response_format": formatted(SCHEMA)}, "guided_regex", "both given"),
    ],
)
def test_refusals_name_the_field(
    client: openai.OpenAI, asked: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        said(client, extra_body=asked)
    assert caught.value.param == param
    assert words in caught.value.message
    assert "\n" not in caught.value.body["message"]  # type: ignore[index]


def test_a_grammar_that_gets_too_complex_on_the_way_fails_alone(client: openai.OpenAI) -> None:
    hostile = {"guided_regex": "(\\p{L}{1,100}){1,100}"}
    with pytest.raises(openai.BadRequestError):
        said(client, extra_body=hostile, max_tokens=100)
    assert said(client, max_tokens=3).choices[0].finish_reason == "length"


def test_the_responses_endpoint_takes_formats_too(client: openai.OpenAI) -> None:
    wanted: Any = {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}}
    answer = client.responses.create(model="speller", input="hello", text=wanted, max_output_tokens=120)
    jsonschema.validate(json.loads(answer.output_text), SCHEMA)
