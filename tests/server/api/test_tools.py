"""Functions that the model may call: the official client, the default model, and what templates are given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jsonschema
import openai
import pytest

from trimtab.server.api.call_form import described, shown_by, woven
from trimtab.server.api.messages import for_template
from trimtab.server.api.schemas import Message

HELLO: Any = [{"role": "user", "content": "What is the weather?"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 10}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}
ALLOWED: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}


@pytest.fixture
def client(server_address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://{server_address}/v1", api_key="none", max_retries=0, timeout=60
    ) as made:
        yield made


def said(client: openai.OpenAI, **asked: Any) -> Any:
    given = {"model": "smollm2", "messages": HELLO, "max_tokens": 600, "seed": 1, "tools": TOOLS} | asked
    return client.chat.completions.create(**given)


def check(calls: Any) -> None:
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.type == "function"
        arguments = json.loads(call.function.arguments)
        if call.function.name == "weather":
            jsonschema.validate(arguments, {**WEATHER, "additionalProperties": False})
        else:
            assert (call.function.name, arguments) == ("now", {})


@pytest.mark.parametrize("choice", ["required", NAMED, ALLOWED])
@pytest.mark.parametrize("parallel", [None, False])
def test_calls_that_must_be(client: openai.OpenAI, choice: Any, parallel: bool | None) -> None:
    extra = {} if parallel is None else {"parallel_tool_calls": parallel}
    answer = said(client, tool_choice=choice, **extra).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    check(answer.message.tool_calls)
    if choice is NAMED or parallel is False:
        assert len(answer.message.tool_calls) == 1
    if choice != "required":
        assert {call.function.name for call in answer.message.tool_calls} == {"weather"}


@pytest.mark.parametrize("choice", ["required", "auto"])
def test_streams_say_the_same(client: openai.OpenAI, choice: Any) -> None:
    whole = said(client, tool_choice=choice, seed=2).choices[0]
    text, calls, finish = "", [], None
    for chunk in said(client, tool_choice=choice, seed=2, stream=True):
        delta, finish = chunk.choices[0].delta, chunk.choices[0].finish_reason or finish
        text += delta.content or ""
        for piece in delta.tool_calls or []:
            if piece.id is not None:
                assert (piece.index, piece.type, piece.function.arguments) == (len(calls), "function", "")
                calls.append([piece.function.name, ""])
            else:
                assert piece.function.name is None
                calls[piece.index][1] += piece.function.arguments
    assert text == (whole.message.content or "")
    assert calls == [[c.function.name, c.function.arguments] for c in whole.message.tool_calls or []]
    assert finish == whole.finish_reason


def test_the_clients_own_stream(client: openai.OpenAI) -> None:
    asked: Any = {"model": "smollm2", "messages": HELLO, "tools": TOOLS, "tool_choice": NAMED}
    with client.chat.completions.stream(**asked, max_tokens=200) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    check(final.choices[0].message.tool_calls)


def test_no_call_where_none_may_be(client: openai.OpenAI) -> None:
    answer = said(client, tool_choice="none", max_tokens=20).choices[0]
    assert answer.message.tool_calls is None
    assert len(answer.message.content) > 10


def test_the_limit_leaves_no_half_call(client: openai.OpenAI) -> None:
    for most in (40, 44, 50):
        answer = said(client, tool_choice="required", max_tokens=most).choices[0]
        check(answer.message.tool_calls)


def test_a_json_answer_or_a_call(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    for seed in range(4):
        message = said(client, response_format=wanted, seed=seed).choices[0].message
        if message.tool_calls:
            check(message.tool_calls)
        else:
            jsonschema.validate(json.loads(message.content), schema)


def test_calls_and_answers_go_back(client: openai.OpenAI) -> None:
    message = said(client, tool_choice=NAMED).choices[0].message
    answer: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "18 C"}
    assert said(client, messages=[*HELLO, message, answer], max_tokens=5).choices[0].message.content


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function", "Missing"),
        ({"tools": [{"type": "custom", "function": {"name": "a"}}]}, "tools[0].type", "Supported"),
        (
            {"tools": [TOOLS[0], {"type": "function", "function": {"name": "a b"}}]},
            "tools[1].function.name",
            "",
        ),
        ({"tools": [TOOLS[1], TOOLS[1]]}, "tools[1].function.name", "Two functions"),
        ({"tool_choice": "maybe"}, "tool_choice", "Supported values are"),
        ({"tool_choice": 3}, "tool_choice", "expected a string or an object"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "not found"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools", "expected 'mode'"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "only allowed when 'tools'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "Missing"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function", ""),
    ],
)
def test_refusals_name_the_field(
    client: openai.OpenAI, asked: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        said(client, **asked)
    assert caught.value.param == param
    assert words in caught.value.message


@pytest.mark.parametrize("schema", [{"type": "array"}, {"type": "object", "properties": {"a": {"not": {}}}}])
def test_a_schema_that_cannot_be_enforced_is_named(client: openai.OpenAI, schema: Any) -> None:
    tools = [*TOOLS, {"type": "function", "function": {"name": "bad", "parameters": schema}}]
    with pytest.raises(openai.BadRequestError) as caught:
        said(client, tools=tools)
    assert caught.value.param == "tools[2].function.parameters"
    assert caught.value.code == "invalid_function_parameters"
    assert "Invalid schema for function 'bad': " in caught.value.message


# --- what the model sees ------------------------------------------------------------------------------------

CALL: Any = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
}


def test_templates_get_arguments_as_objects() -> None:
    turn = for_template(Message(role="assistant", tool_calls=[CALL]), 0)
    assert turn["content"] == ""
    assert turn["tool_calls"][0]["function"]["arguments"] == {"city": "Rome"}


def test_templates_that_know_functions_are_recognised() -> None:
    assert shown_by("{% if tools %}...<tool_call>...{% endif %}")
    assert not shown_by("{{ messages }} <tool_call>")
    assert not shown_by("{% for tool in tools %}[AVAILABLE_TOOLS]{% endfor %}")
    assert not shown_by(None)


def test_other_templates_get_text() -> None:
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "18 C", "tool_call_id": "call_1"},
    ]
    made = woven(turns, TOOLS, "system and others")
    assert [turn["role"] for turn in made] == ["system", "user", "assistant", "user"]
    assert made[0]["content"] == described(TOOLS)
    assert made[2]["content"] == (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    )
    assert made[3]["content"] == "<tool_response>\n18 C\n</tool_response>"
    with_system = woven([{"role": "system", "content": "Be brief."}, *turns], TOOLS, "system")
    assert with_system[0]["content"].startswith("Be brief.\n\nYou may call")
    without = woven(turns, TOOLS, "user and assistant only")
    assert without[0]["content"].endswith("\n\nWeather?")
    assert woven(turns[:1], None, "system") == turns[:1]


def test_a_template_that_shows_tools_gets_them() -> None:
    import asyncio

    from trimtab.server.api.messages import conversation_tokens

    seen: dict[str, Any] = {}

    def chat(messages: Any, **options: Any) -> str:
        seen.update(options, messages=messages)
        return "rendered"

    def encode(text: str, *, add_special: bool = True) -> list[int]:
        return [1] if text == "rendered" and not add_special else []

    tokenizer = SimpleNamespace(tool_template="{{ tools }} <tool_call>", chat=chat, encode=encode)
    served: Any = SimpleNamespace(tokenizer=tokenizer)
    turns = [Message(role="user", content="x"), Message(role="tool", content="y", tool_call_id="call_1")]
    assert asyncio.run(conversation_tokens(served, turns, tools=TOOLS)) == [1]
    assert seen["tools"] == TOOLS
    assert [turn["role"] for turn in seen["messages"]] == ["user", "tool"]
