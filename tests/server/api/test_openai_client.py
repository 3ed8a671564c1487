"""The official client against a real server process: what it parses is what it expects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from serving_fakes import SENTENCE, ByteTokenizer

HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as made:
        yield made


def spelled(prompt_tokens: int, count: int) -> str:
    """What the model writes after a prompt of this length."""
    letters = bytes(SENTENCE[(prompt_tokens + i) % len(SENTENCE)] for i in range(count))
    return letters.decode("utf-8", "replace")


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="speller", messages=HELLO, max_tokens=8, temperature=0)
    prompt = len(ByteTokenizer().encode("<start>user\nhello<end>\n<start>assistant\n"))
    assert answer.choices[0].message.content == spelled(prompt, 8)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.model == "speller"
    assert answer._request_id == answer.id
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 8)


def test_chat_stream_says_the_same_as_the_whole(client: openai.OpenAI) -> None:
    asked: Any = {"model": "speller", "messages": HELLO, "max_tokens": 40, "seed": 4}
    whole = client.chat.completions.create(**asked)
    asked |= {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**asked))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_no_usage_in_a_stream_that_did_not_ask(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="speller", messages=HELLO, max_tokens=4, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_end_of_text_finishes_with_stop(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="speller", messages=HELLO, logprobs=True, max_completion_tokens=400
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert "<end>" not in (choice.message.content or "")
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "<end>" not in [entry.token for entry in choice.logprobs.content]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_text(client: openai.OpenAI, stream: bool) -> None:
    answer: Any = client.completions.create(
        model="speller", prompt="T", max_tokens=100, stop=["fox", "dog"], stream=stream, temperature=0
    )
    chunks = list(answer) if stream else [answer]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "he quick brown "
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_choices_differ_by_seed_and_repeat_with_it(client: openai.OpenAI) -> None:
    asked: Any = {"model": "speller", "prompt": "T", "max_tokens": 9, "n": 8, "seed": 5, "temperature": 1.0}
    first, second = (client.completions.create(**asked) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert [choice.index for choice in first.choices] == list(range(8))
    assert texts == [choice.text for choice in second.choices]
    assert set(texts) == {"he quick ", "HE QUICK "}
    assert first.usage is not None
    assert first.usage.prompt_tokens == 1
    assert first.usage.completion_tokens == 72


def test_streamed_choices_interleave(client: openai.OpenAI) -> None:
    texts = ["", "", ""]
    ends = []
    for chunk in client.completions.create(
        model="speller", prompt="T", max_tokens=9, n=3, stream=True, seed=1
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].text
        ends += [chunk.choices[0].index] * (chunk.choices[0].finish_reason is not None)
    assert {text.lower() for text in texts} == {"he quick "}
    assert sorted(ends) == [0, 1, 2]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("T", ["he q"]),
        (["T", "Th"], ["he q", "e qu"]),
        ([84, 104], ["e qu"]),
        ([[84], [84, 104]], ["he q", "e qu"]),
    ],
)
def test_prompt_forms(client: openai.OpenAI, prompt: Any, texts: list[str]) -> None:
    answer = client.completions.create(model="speller", prompt=prompt, max_tokens=4, temperature=0)
    assert [choice.text for choice in answer.choices] == texts


@pytest.mark.parametrize("stream", [False, True])
def test_echo_scores_the_prompt(client: openai.OpenAI, stream: bool) -> None:
    answer: Any = client.completions.create(
        model="speller", prompt="The", max_tokens=2, echo=True, logprobs=2, temperature=0, stream=stream
    )
    chunks = list(answer) if stream else [answer]
    logprobs = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "The q"
    assert [token for part in logprobs for token in part.tokens] == list("The q")
    assert [offset for part in logprobs for offset in part.text_offset] == [0, 1, 2, 3, 4]
    scores = [score for part in logprobs for score in part.token_logprobs]
    assert scores == [None, -0.5, -0.5, -0.5, -0.5]
    assert logprobs[0].top_logprobs[0] is None
    assert logprobs[0].top_logprobs[1]["h"] == -0.5
    assert len(logprobs[0].top_logprobs[1]) == 3  # the two asked for, and the token itself


def test_echo_alone_generates_nothing(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="speller", prompt="The", max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].text == "The"
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.token_logprobs == [None, -0.5, -0.5]
    assert answer.choices[0].finish_reason == "length"


def test_chat_logprobs_name_every_byte(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="speller", messages=HELLO, logprobs=True, top_logprobs=3, max_tokens=70
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    raw = bytes(byte for entry in choice.logprobs.content for byte in entry.bytes or [])
    assert raw.decode("utf-8", "replace") == choice.message.content
    assert {len(entry.top_logprobs) for entry in choice.logprobs.content} == {3}


def test_bias_and_extras_reach_the_engine(client: openai.OpenAI) -> None:
    extra: Any = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 3, "ignore_eos": True,
                  "stop_token_ids": [0], "cache_salt": "mine"}  # fmt: skip
    answer = client.completions.create(
        model="speller", prompt="T", max_tokens=4, logit_bias={"90": 100}, extra_body=extra
    )
    assert answer.choices[0].text == "ZZZZ"


def test_parts_developer_and_history(client: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
        {"role": "assistant", "content": "hi", "refusal": None},
        {"role": "user", "content": "more"},
    ]
    plain: Any = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "more"},
    ]
    asked: Any = {"model": "speller", "seed": 4}
    first, second = (client.chat.completions.create(messages=m, **asked) for m in (messages, plain))
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.usage.prompt_tokens == second.usage.prompt_tokens


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["speller"]
    assert client.models.retrieve("speller").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_fields_without_effect_are_accepted(client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model="speller", messages=HELLO, max_tokens=2, user="me", metadata={"a": "b"}, store=False,
        service_tier="auto", parallel_tool_calls=True, response_format={"type": "text"}, modalities=["text"],
        prompt_cache_key="k", safety_identifier="s",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "kind", "param", "code"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "model", "model_not_found"),
        ({"temperature": 3}, openai.BadRequestError, "temperature", "number_above_max_value"),
        ({"temperature": "hot"}, openai.BadRequestError, "temperature", "invalid_type"),
        ({"messages": []}, openai.BadRequestError, "messages", "array_below_min_length"),
        ({"messages": [{"role": "user"}]}, openai.BadRequestError, "messages[0].content", None),
        ({"messages": [{"role": "clown", "content": ""}]}, openai.BadRequestError, "messages[0].role", None),
        ({"messages": [{"role": "user", "content": 1}]}, openai.BadRequestError, "messages[0].content", None),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, openai.BadRequestError, "prompt", None),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens", None),
        ({"n": 1000}, openai.BadRequestError, "n", "number_above_max_value"),
        ({"stop": [""]}, openai.BadRequestError, "stop", None),
        ({"stop": ["x"] * 17}, openai.BadRequestError, "stop", None),
        ({"top_logprobs": 3}, openai.BadRequestError, "top_logprobs", None),
        ({"logit_bias": {"cat": 1}}, openai.BadRequestError, "logit_bias", None),
        ({"logit_bias": {"99999": 1}}, openai.BadRequestError, "logit_bias", None),
        ({"stream_options": {"include_usage": True}}, openai.BadRequestError, "stream_options", None),
        (
            {"messages": [{"role": "user", "content": "", "mood": 1}]},
            openai.BadRequestError,
            "messages[0].mood",
            "unknown_parameter",
        ),
        ({"extra_body": {"chat_template_kwargs": {"fail": 1}}}, openai.BadRequestError, "messages", None),
        (
            {"extra_body": {"chat_template_kwargs": {"self": 1}}},
            openai.BadRequestError,
            "chat_template_kwargs",
            None,
        ),
        ({"extra_body": {"min_tokens": 9}}, openai.BadRequestError, "min_tokens", None),
    ],
    ids=str,
)
def test_refusals_name_the_field(
    client: openai.OpenAI,
    asked: dict[str, Any],
    kind: type[openai.APIStatusError],
    param: str | None,
    code: str | None,
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**({"model": "speller", "messages": HELLO, "max_tokens": 3} | asked))
    assert param is None or caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    if code is not None:
        assert caught.value.code == code
    if param == "prompt":
        assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"tempature": 1}, "Unrecognized request argument supplied: tempature"),
        ({"tempature": 1, "max_toks": 1}, "Unrecognized request arguments supplied: max_toks, tempature"),
    ],
)
def test_unknown_fields_are_refused_as_openai_does(client: openai.OpenAI, extra: Any, says: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: client.chat.completions.create(model="speller", messages=HELLO, extra_body=extra),
        lambda: client.completions.create(model="speller", prompt="T", extra_body=extra),
        lambda: client.embeddings.create(model="speller", input="T", extra_body=extra),
    ]
    for call in calls:
        with pytest.raises(openai.BadRequestError) as caught:
            call()
        body: Any = caught.value.body
        assert body == {"message": says, "type": "invalid_request_error", "param": None, "code": None}


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_failure_is_a_500_before_the_first_token(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model="speller", prompt="\x07", stream=stream)
    assert (
        client.completions.create(model="speller", prompt="T", max_tokens=2).choices[0].text.lower() == "he"
    )


def test_every_field_of_the_client_is_known() -> None:
    """Accepted, or refused as what it is; never as a field that nobody has heard of."""
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.chat import completion_create_params as chat_create_params
    from openai.types.responses import response_create_params

    from trimtab.server.api.embeddings import EmbeddingsRequest
    from trimtab.server.api.response_types import ResponseRequest
    from trimtab.server.api.schemas import ChatRequest, CompletionRequest

    for theirs, ours in (
        (chat_create_params.CompletionCreateParamsBase, ChatRequest),
        (completion_create_params.CompletionCreateParamsBase, CompletionRequest),
        (embedding_create_params.EmbeddingCreateParams, EmbeddingsRequest),
        (response_create_params.ResponseCreateParamsBase, ResponseRequest),
    ):
        known = set(ours.model_fields) | {"stream"}
        assert set(theirs.__annotations__) - known == set(), ours.__name__


def test_many_at_once(server: Any) -> None:
    async def one(client: openai.AsyncOpenAI, i: int) -> None:
        prompt = "T" * (i % 7 + 1)
        answer = await client.completions.create(model="speller", prompt=prompt, max_tokens=20, stream=True)
        text = "".join([chunk.choices[0].text async for chunk in answer])
        assert text.lower() == spelled(len(prompt), 20).lower()

    async def everyone() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=60) as client:
            await asyncio.gather(*(one(client, i) for i in range(40)))

    asyncio.run(everyone())
