"""langchain-openai, unmodified: chat, streams, coroutines, embeddings with and without its own counting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydantic
import pytest

langchain_openai = pytest.importorskip("langchain_openai")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

QUESTION = "What is the capital of France?"
TEXTS = ["The capital of France is Paris.", "Bees make honey. " * 30, "x"]


@pytest.fixture
def settings(served: Any) -> Iterator[dict[str, Any]]:
    """With a connection of our own: its own ones live as long as the process."""
    with httpx.Client() as http:
        yield {
            "model": "smollm2", "base_url": f"{served.url}/v1", "api_key": "none", "max_retries": 0,
            "http_client": http,
        }  # fmt: skip


@pytest.fixture
def chat(settings: dict[str, Any]) -> Any:
    return langchain_openai.ChatOpenAI(**settings, temperature=0, max_tokens=24)


def test_chat_says_what_the_library_says(chat: Any, default_model: Path) -> None:
    from trimtab import LLM, SamplingParams

    answer = chat.invoke([("system", "Be brief."), ("user", QUESTION)])
    assert "Paris" in answer.content
    assert answer.usage_metadata["output_tokens"] <= 24
    with LLM(default_model) as llm:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
        assert llm.chat(messages, SamplingParams(temperature=0, max_tokens=24)).text == answer.content


def test_streams_batches_and_coroutines(settings: dict[str, Any], chat: Any) -> None:
    whole = chat.invoke(QUESTION).content
    chunks = list(chat.stream(QUESTION, stream_usage=True))
    assert "".join(chunk.content for chunk in chunks) == whole
    assert sum((chunk.usage_metadata or {}).get("output_tokens", 0) for chunk in chunks) > 0
    assert [answer.content for answer in chat.batch([QUESTION] * 3)] == [whole] * 3

    async def both() -> tuple[str, str]:
        async with httpx.AsyncClient() as http:
            more = {"http_async_client": http, "temperature": 0, "max_tokens": 24}
            model = langchain_openai.ChatOpenAI(**settings, **more)
            streamed = "".join([chunk.content async for chunk in model.astream(QUESTION)])
            return (await model.ainvoke(QUESTION)).content, streamed

    assert asyncio.run(both()) == (whole, whole)


def test_the_responses_endpoint(settings: dict[str, Any], chat: Any) -> None:
    model = langchain_openai.ChatOpenAI(
        **settings, temperature=0, max_tokens=24, use_responses_api=True, output_version="responses/v1"
    )
    answer = model.invoke(QUESTION)
    assert answer.text == chat.invoke(QUESTION).content
    assert "".join(chunk.text for chunk in model.stream(QUESTION)) == answer.text
    again = model.invoke("And of Italy?", previous_response_id=answer.response_metadata["id"])
    assert again.usage_metadata["input_tokens"] > answer.usage_metadata["input_tokens"]


class Capital(pydantic.BaseModel):
    """A capital and its country."""

    city: str
    country: str


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_answers_of_a_form(settings: dict[str, Any], method: Any) -> None:
    model = langchain_openai.ChatOpenAI(**settings, temperature=0, max_tokens=200)
    found = model.with_structured_output(Capital, method=method).invoke(QUESTION)
    assert isinstance(found, Capital)


def test_tools(settings: dict[str, Any]) -> None:
    model = langchain_openai.ChatOpenAI(**settings, temperature=0, max_tokens=200)
    bound = model.bind_tools([Capital], tool_choice="required", parallel_tool_calls=False)
    (call,) = bound.invoke(QUESTION).tool_calls
    assert call["name"] == "Capital"
    assert set(call["args"]) == {"city", "country"}
    chunks = list(bound.stream(QUESTION))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == [(call["name"], call["args"])]


def test_log_probabilities(settings: dict[str, Any]) -> None:
    model = langchain_openai.ChatOpenAI(
        **settings, temperature=0, max_tokens=5, logprobs=True, top_logprobs=2
    )
    scores = model.invoke(QUESTION).response_metadata["logprobs"]["content"]
    assert len(scores) == 5
    assert all(len(one["top_logprobs"]) == 2 and one["logprob"] <= 0 for one in scores)


def test_completions(settings: dict[str, Any]) -> None:
    model = langchain_openai.OpenAI(**settings, temperature=0, max_tokens=8)
    assert "Paris" in model.invoke("The capital of France is")
    assert model.batch(["The capital of France is"] * 2)[1] == "".join(
        model.stream("The capital of France is")
    )


@pytest.fixture(scope="module")
def expected(default_model: Path) -> Any:
    from trimtab import LLM

    with LLM(default_model) as llm:
        return llm.embed(TEXTS)


def test_embeddings_of_texts(settings: dict[str, Any], expected: Any) -> None:
    model = langchain_openai.OpenAIEmbeddings(**settings, check_embedding_ctx_length=False)
    np.testing.assert_allclose(model.embed_documents(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(model.embed_query(TEXTS[0]), expected[0], atol=1e-6)

    async def one() -> list[float]:
        async with httpx.AsyncClient() as http:
            model = langchain_openai.OpenAIEmbeddings(
                **settings, http_async_client=http, check_embedding_ctx_length=False
            )
            found: list[float] = await model.aembed_query(TEXTS[0])
            return found

    np.testing.assert_allclose(asyncio.run(one()), expected[0], atol=1e-6)


def test_embeddings_of_tokens(
    settings: dict[str, Any], expected: Any, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client counts tokens and sends ids; its tokenizer here is the server's, its own needs a network."""
    import tiktoken

    class Encoding:
        def encode(self, text: str, **_: Any) -> list[int]:
            tokens: list[int] = served.client.post("/tokenize", json={"prompt": text}).json()["tokens"]
            return tokens

        encode_ordinary = encode

    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: Encoding())
    model = langchain_openai.OpenAIEmbeddings(**settings, check_embedding_ctx_length=True)
    np.testing.assert_allclose(model.embed_documents(TEXTS), expected, atol=1e-6)
    short = langchain_openai.OpenAIEmbeddings(**settings, dimensions=32, check_embedding_ctx_length=True)
    assert np.array(short.embed_documents(TEXTS)).shape == (3, 32)
