"""/v1/responses with the official client: turns, events in their order, kept conversations, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest
from official_client import client_of
from serving_fakes import SENTENCE, ByteTokenizer


def ask(client: openai.OpenAI, given: Any = "hello", **more: Any) -> Any:
    asked: Any = {"model": "speller", "temperature": 0, "max_output_tokens": 8}
    return client.responses.create(input=given, **(asked | more))


def tokens_of(*turns: tuple[str, str]) -> int:
    """Length of a conversation as the make-believe template renders it."""
    text = "".join(f"<start>{role}\n{content}<end>\n" for role, content in turns)
    return len(ByteTokenizer().encode(text + "<start>assistant\n"))


def spelled(prompt_tokens: int, count: int) -> str:
    return bytes(SENTENCE[(prompt_tokens + i) % len(SENTENCE)] for i in range(count)).decode(
        "utf-8", "replace"
    )


def test_a_text_is_answered(client: openai.OpenAI) -> None:
    answer = ask(client, metadata={"k": "v"}, user="me", extra_body={"cache_salt": "a salt of its own"})
    prompt = tokens_of(("user", "hello"))
    assert answer.output_text == spelled(prompt, 8)
    assert answer.object == "response"
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    (item,) = answer.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "incomplete")
    assert item.content[0].annotations == []
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (prompt, 8, prompt + 8)
    assert usage.input_tokens_details.cached_tokens == 0
    assert usage.output_tokens_details.reasoning_tokens == 0
    assert (answer.metadata, answer.user, answer.max_output_tokens) == ({"k": "v"}, "me", 8)
    assert (answer.tool_choice, answer.tools, answer.truncation) == ("auto", [], "disabled")
    assert answer._request_id == answer.id
    assert answer.completed_at >= answer.created_at


def test_an_answer_that_ends_by_itself_is_completed(client: openai.OpenAI) -> None:
    answer = ask(client, max_output_tokens=None)
    assert (answer.status, answer.incomplete_details, answer.error) == ("completed", None, None)
    assert answer.output[0].status == "completed"


@pytest.mark.parametrize(
    "given",
    [
        [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hello"}],
        [
            {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "be brief"}]},
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "hel"}, {"type": "input_text", "text": "lo"}],
            },
        ],
    ],
)
def test_forms_of_input(client: openai.OpenAI, given: Any) -> None:
    prompt = tokens_of(("system", "be brief"), ("user", "hello"))
    assert ask(client, given).usage.input_tokens == prompt
    assert ask(client, "hello", instructions="be brief").usage.input_tokens == prompt


def test_events_come_in_order_and_add_up(client: openai.OpenAI) -> None:
    events = list(ask(client, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress",
        "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
        "response.incomplete",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events[4:-4])
    whole = ask(client)
    assert text == whole.output_text == events[-4].text == events[-1].response.output_text
    assert (events[0].response.status, events[0].response.output, events[0].response.usage) == (
        "in_progress",
        [],
        None,
    )
    last = events[-1].response
    assert last.usage.output_tokens == 8
    ids = {event.item_id for event in events[3:-2]} | {
        events[2].item.id,
        events[-2].item.id,
        last.output[0].id,
    }
    assert len(ids) == 1
    assert len({event.response.id for event in (events[0], events[1], events[-1])}) == 1
    assert type(whole).model_validate(last.model_dump()).output_text == text


def test_a_completed_stream_ends_with_completed(client: openai.OpenAI) -> None:
    with client.responses.stream(model="speller", input="hello", temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert final.status == "completed"
    assert client.responses.retrieve(final.id).output_text == final.output_text


def test_coroutines(server: Any) -> None:
    async def main() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked: Any = {"model": "speller", "input": "hello", "temperature": 0, "max_output_tokens": 20}
            whole = await client.responses.create(**asked)
            text = ""
            async for event in await client.responses.create(**asked, stream=True):
                text += event.delta if event.type == "response.output_text.delta" else ""
            return whole.output_text, text

    whole, streamed = asyncio.run(main())
    assert whole == streamed


@pytest.mark.parametrize("stream", [False, True])
def test_scores(client: openai.OpenAI, stream: bool) -> None:
    include: Any = ["message.output_text.logprobs"]
    answer: Any = ask(client, include=include, top_logprobs=2, stream=stream)
    if stream:
        events = list(answer)
        answer = events[-1].response
        deltas = [
            one for event in events if event.type == "response.output_text.delta" for one in event.logprobs
        ]
        assert [one.token for one in deltas] == [one.token for one in answer.output[0].content[0].logprobs]
    scores = answer.output[0].content[0].logprobs
    assert len(scores) == 8
    assert {len(one.top_logprobs) for one in scores} == {2}
    assert (
        bytes(byte for one in scores for byte in one.bytes).decode("utf-8", "replace") == answer.output_text
    )


def test_a_conversation_continues(client: openai.OpenAI) -> None:
    first = ask(client, "one", instructions="be brief")
    second = ask(client, "two", previous_response_id=first.id)
    # Instructions are for one answer only; what was asked and answered before comes again.
    turns = [("user", "one"), ("assistant", first.output_text), ("user", "two")]
    assert second.usage.input_tokens == tokens_of(*turns)
    assert second.previous_response_id == first.id
    third = ask(client, "three", previous_response_id=second.id)
    turns += [("assistant", second.output_text), ("user", "three")]
    assert third.usage.input_tokens == tokens_of(*turns)
    by_hand = ask(client, [{"role": role, "content": content} for role, content in turns])
    assert by_hand.output_text == third.output_text


def test_outputs_can_be_given_back_as_input(client: openai.OpenAI) -> None:
    first = ask(client, "one")
    again = [{"role": "user", "content": "one"}, *[item.model_dump() for item in first.output]]
    second = ask(client, [*again, {"role": "user", "content": "two"}])
    chained = ask(client, "two", previous_response_id=first.id)
    assert (second.output_text, second.usage.input_tokens) == (
        chained.output_text,
        chained.usage.input_tokens,
    )


def test_kept_answers(client: openai.OpenAI) -> None:
    made = ask(client, [{"role": "user", "content": str(number)} for number in range(5)])
    assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
    items = list(client.responses.input_items.list(made.id, limit=2, order="asc"))
    assert [item.content for item in items] == [str(number) for number in range(5)]  # type: ignore[union-attr]
    assert [item.id for item in client.responses.input_items.list(made.id)] == [
        item.id for item in items[::-1]
    ]
    client.responses.delete(made.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "more", previous_response_id=made.id)
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")


def test_what_is_not_to_be_kept_is_not(
    client: openai.OpenAI, start: Callable[..., Any], tmp_path: Path
) -> None:
    made = ask(client, store=False)
    assert made.store is False  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with client_of(start("response_days=0", f"state_dir={tmp_path / 'none'}")) as other:
        made = ask(other)
        assert made.store is False  # type: ignore[attr-defined]
        with pytest.raises(openai.BadRequestError) as caught:
            ask(other, store=True)
        assert caught.value.param == "store"
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_only_costs_the_keeping(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    server = start(f"state_dir={tmp_path / 'file' / 'state'}")
    with client_of(server) as client:
        answer = ask(client)
        assert answer.usage.output_tokens == 8
        assert answer.store is False
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client, store=True)
        assert caught.value.status_code == 507
    assert "a response was not kept" in server.end()[1]


def test_conversations_survive_a_restart(start: Callable[..., Any], tmp_path: Path) -> None:
    server = start(f"state_dir={tmp_path}")
    with client_of(server) as client:
        first = ask(client, "one")
    server.process.kill()
    server.process.wait()
    with client_of(start(f"state_dir={tmp_path}")) as client:
        assert client.responses.retrieve(first.id).output_text == first.output_text
        assert ask(client, "two", previous_response_id=first.id).output_text


def test_old_turns_are_left_out_when_asked(client: openai.OpenAI) -> None:
    turns = [("system", "rules")]
    for number in range(20):
        turns += [("user", f"question {number}"), ("assistant", f"answer {number}")]
    turns.append(("user", "last"))
    items = [{"role": role, "content": content} for role, content in turns]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, items)
    assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")
    got = ask(client, items, truncation="auto").usage.input_tokens
    kept = [tokens_of(turns[0], *turns[start:]) for start in range(1, len(turns), 2)]
    assert got == max(length for length in kept if length + 8 <= 512)
    with pytest.raises(openai.BadRequestError, match="exceed the context"):
        ask(client, "x" * 600, truncation="auto")


def test_calls_and_their_outputs_reach_the_template(client: openai.OpenAI) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    items = [
        {"role": "user", "content": "go"}, call, {**call, "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
    ]  # fmt: skip
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": name, "type": "function", "function": function} for name in ("c1", "c2")]
    messages: Any = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
    ]
    chat = client.chat.completions.create(model="speller", messages=messages, max_tokens=1)
    assert (
        client.responses.input_tokens.count(model="speller", input=items).input_tokens
        == chat.usage.prompt_tokens
    )


ON = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
TOOLS: Any = [{"type": "function", "name": "lamp", "strict": True, "parameters": ON}]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "lamp"}])
def test_calls_are_items(client: openai.OpenAI, choice: Any) -> None:
    asked: Any = {
        "tools": TOOLS,
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "max_output_tokens": 80,
    }
    answer = ask(client, "go", **asked)
    (item,) = answer.output
    assert (item.type, item.status, answer.output_text) == ("function_call", "completed", "")
    assert item.name == "lamp"
    assert isinstance(json.loads(item.arguments)["on"], bool)
    # The answer of the call goes back by its name.
    output = {"type": "function_call_output", "call_id": item.call_id, "output": "done"}
    more = ask(client, [output], previous_response_id=answer.id, tools=TOOLS, tool_choice="none")
    assert more.output[0].type == "message"
    by_hand = ask(client, [{"role": "user", "content": "go"}, item.model_dump(), output])
    assert by_hand.output_text == more.output_text


def test_streamed_calls_add_up(client: openai.OpenAI) -> None:
    asked: Any = {"tools": TOOLS, "tool_choice": "required", "max_output_tokens": 120}
    events = list(ask(client, "go", **asked, stream=True))
    answer = events[-1].response
    whole = ask(client, "go", **asked)
    assert [(item.name, item.arguments) for item in answer.output] == [
        (item.name, item.arguments) for item in whole.output
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for place, item in enumerate(answer.output):
        mine = [event for event in events if getattr(event, "output_index", None) == place]
        kinds = [event.type for event in mine]
        assert kinds[0] == "response.output_item.added"
        assert set(kinds[1:-2]) <= {"response.function_call_arguments.delta"}
        assert kinds[-2:] == ["response.function_call_arguments.done", "response.output_item.done"]
        assert "".join(event.delta for event in mine[1:-2]) == item.arguments == mine[-2].arguments
        assert mine[0].item.call_id == mine[-1].item.call_id == item.call_id
        assert mine[0].item.arguments == ""


def test_text_before_a_call_is_an_item_of_its_own(start: Callable[..., Any]) -> None:
    """The make-believe model says its text over and over, from some place in it, until a call begins."""
    said = 'Well. <tool_call>\n{"name": "lamp", "arguments": {"on": true}}\n</tool_call>'
    with client_of(start("--text", said)) as client:
        asked: Any = {"tools": TOOLS, "max_output_tokens": 100, "input": "go"}
        for stream in (False, True):
            answer: Any = client.responses.create(model="speller", temperature=0, stream=stream, **asked)
            events = list(answer) if stream else []
            answer = events[-1].response if stream else answer
            kinds = [item.type for item in answer.output]
            assert kinds[0] == "message"
            assert set(kinds[1:]) == {"function_call"}
            assert json.loads(answer.output[1].arguments)["on"] in (True, False)
            assert "Well." in answer.output_text
            assert "<tool_call>" not in answer.output_text
            if stream:
                deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
                assert "".join(deltas) == answer.output_text


def test_a_call_that_a_limit_cuts_is_not_text(start: Callable[..., Any]) -> None:
    said = 'Well. <tool_call>\n{"name": "lamp", "arguments": {"on": true}}\n</tool_call>'
    with client_of(start("--text", said)) as client:
        for limit in range(4, 100, 3):
            asked: Any = {"tools": TOOLS, "max_output_tokens": limit, "input": "go"}
            answer: Any = client.responses.create(model="speller", temperature=0, **asked)
            assert "<tool_call>" not in answer.output_text
            assert '"name"' not in answer.output_text


class Lamp(pydantic.BaseModel):
    on: bool
    room: Literal["hall", "attic"]


def test_answers_of_a_form(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model="speller", input="a lamp", text_format=Lamp, temperature=0)
    assert isinstance(parsed.output_parsed, Lamp)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted: Any = {"format": {"type": "json_schema", "name": "number", "schema": schema, "strict": True}}
    answer = ask(client, text=wanted, max_output_tokens=100)
    assert isinstance(json.loads(answer.output_text)["n"], int)
    assert answer.text.format.type == "json_schema"
    free: Any = {"format": {"type": "json_object"}, "verbosity": "low"}
    assert isinstance(json.loads(ask(client, text=free, max_output_tokens=100).output_text), dict)


def test_tokens_are_counted_before_they_are_spent(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(model="speller", input="hello", instructions="be brief")
    assert counted.input_tokens == ask(client, "hello", instructions="be brief").usage.input_tokens


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [3]}, "input"),
        ({"input": [{"role": "clown", "content": "x"}]}, "input[0].role"),
        ({"input": [{"content": "x"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": "x", "mood": 1}]}, "input[0].mood"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "max_output_tokens": 600}, "input"),
        ({"input": "x", "temperature": 3}, "temperature"),
        ({"input": "x", "include": ["everything"]}, "include"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": "x", "tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": "x", "tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"input": "x", "tools": [{"type": "function", "name": "f", "parameters": {"type": "array"}}]},
         "tools[0].parameters"),
        ({"input": "x", "tools": [{"type": "function", "name": "f", "mood": 1}]}, "tools[0].mood"),
        ({"input": "x", "tools": TOOLS, "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"input": "x", "tool_choice": "required"}, "tool_choice"),
        ({"input": "x", "text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        ({"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "x"}}}},
         "text.format"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"input": "x", "conversation": "c"}, "conversation"),
        ({"input": "x", "truncation": "some"}, "truncation"),
        ({"input": "x", "metadata": {"a": 1}}, "metadata.a"),
        ({"input": "x", "foo": 1}, "foo"),
        ({"input": "x", "model": "gpt-9"}, "model"),
        ({"input": "x", "stream": "yes"}, "stream"),
        ({"input": "x", "previous_response_id": "resp_none"}, "previous_response_id"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)  # fmt: skip
def test_refusals(server: Any, asked: dict[str, Any], param: str) -> None:
    answer = httpx.post(f"{server.url}/v1/responses", json=asked, timeout=30)
    assert answer.status_code == (404 if param == "model" else 400), answer.text
    assert answer.json()["error"]["param"] == param, answer.text
    if param == "foo":
        assert answer.json()["error"]["code"] == "unknown_parameter"


def test_failures_have_an_honest_status_or_are_events(
    client: openai.OpenAI, start: Callable[..., Any]
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError):
            ask(client, "\x07", stream=stream)
    server = start("--step-ms", "20", "request_seconds=1")
    with client_of(server) as other:
        events = list(ask(other, max_output_tokens=400, stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "server_error"
    assert "longer than this server allows" in events[-1].response.error.message
