"""/v1/embeddings with the official client: forms of input, forms of output, limits."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from serving_fakes import VOCAB, WIDTH, hidden_states


def expected(tokens: list[int], dimensions: int = WIDTH) -> np.ndarray:
    mean = hidden_states(tokens).astype(np.float64).mean(axis=0)[:dimensions]
    return mean / np.linalg.norm(mean)


def embed(client: openai.OpenAI, given: Any, **more: Any) -> list[list[float]]:
    return [one.embedding for one in client.embeddings.create(model="speller", input=given, **more).data]


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("The", [[84, 104, 101]]),
        (["The", "T"], [[84, 104, 101], [84]]),
        ([84, 104], [[84, 104]]),
        ([[84, 104], [101]], [[84, 104], [101]]),
    ],
)
def test_forms_of_input(client: openai.OpenAI, given: Any, tokens: list[list[int]]) -> None:
    answer = client.embeddings.create(model="speller", input=given)
    assert [one.index for one in answer.data] == list(range(len(tokens)))
    for one, ids in zip(answer.data, tokens, strict=True):
        np.testing.assert_allclose(one.embedding, expected(ids), atol=1e-6)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, tokens))
    assert answer.model == "speller"


def test_encodings_carry_the_same_values(client: openai.OpenAI) -> None:
    """The client itself asks for base64 and decodes it; asked for, it hands the text on."""
    plain = embed(client, "The", encoding_format="float")[0]
    coded: Any = embed(client, "The", encoding_format="base64")[0]
    assert np.frombuffer(base64.b64decode(coded), "<f4").tolist() == plain == embed(client, "The")[0]


def test_fewer_dimensions(client: openai.OpenAI) -> None:
    np.testing.assert_allclose(embed(client, "The", dimensions=3)[0], expected([84, 104, 101], 3), atol=1e-6)
    with pytest.raises(openai.BadRequestError) as caught:
        embed(client, "The", dimensions=WIDTH + 1)
    assert caught.value.param == "dimensions"


def test_more_texts_than_the_engine_takes(client: openai.OpenAI) -> None:
    """2,048 texts go through a queue of 16 running and 256 waiting requests, beside a live one."""

    async def both() -> tuple[Any, Any]:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="none", timeout=60) as one:
            texts = [[number % 200 + 32] for number in range(2048)]
            many = one.embeddings.create(model="speller", input=texts)
            live = one.completions.create(model="speller", prompt="T", max_tokens=5, temperature=0)
            return await asyncio.gather(many, live)

    many, live = asyncio.run(both())
    assert live.choices[0].text == "he qu"
    got = np.array([one.embedding for one in many.data])
    np.testing.assert_allclose(got[:200], got[200:400])
    np.testing.assert_allclose(got[199], expected([231]), atol=1e-6)


def test_long_texts_can_be_cut(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        embed(client, ["T", "x" * 600])
    assert caught.value.code == "context_length_exceeded"
    cut: Any = {"truncate_prompt_tokens": 3}
    assert embed(client, "x" * 600 + "The", extra_body=cut) == embed(client, "The")
    embed(client, "x" * 600, extra_body={"truncate_prompt_tokens": -1})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [[1], []]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [VOCAB]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": 3}, "input"),
        ({}, "input"),
        ({"input": "a", "encoding_format": "binary"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "model": "gpt-9"}, "model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(server: Any, body: dict[str, Any], param: str | None) -> None:
    answer = httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=30)
    assert answer.status_code == (404 if param == "model" else 400), answer.text
    assert (answer.json()["error"]["param"] or "").partition("[")[0] == (param or "")


def test_a_client_that_leaves_ends_its_texts(server: Any) -> None:
    body = {"input": [[84] * 500] * 2000}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=httpx.Timeout(30, read=0.3))
    for _ in range(100):
        live = httpx.get(f"{server.url}/health", timeout=30)
        assert live.status_code == 200
    answer = httpx.post(f"{server.url}/v1/embeddings", json={"input": "T"}, timeout=5)
    assert answer.status_code == 200
