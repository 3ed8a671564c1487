"""/tokenize and /detokenize: there and back, conversations, and what is refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_fakes import CONTEXT, START, VOCAB, ByteTokenizer


def ask(server: Any, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/{path}", json=body, timeout=30)


def test_a_text(server: Any) -> None:
    answer = ask(server, "tokenize", model="speller", prompt="Aé").json()
    assert answer == {"count": 3, "max_model_len": CONTEXT, "tokens": [65, 195, 169], "token_strs": None}
    named = ask(server, "tokenize", prompt="Aé", return_token_strs=True).json()
    assert named["token_strs"] == ["A", "bytes:\\xc3", "bytes:\\xa9"]


def test_a_conversation_is_what_the_chat_endpoint_would_feed(server: Any) -> None:
    messages = [{"role": "user", "content": "hello"}]
    chat: Any = httpx.post(
        f"{server.url}/v1/chat/completions", json={"messages": messages, "max_tokens": 1}, timeout=30
    ).json()
    tokens = ask(server, "tokenize", messages=messages).json()["tokens"]
    assert len(tokens) == chat["usage"]["prompt_tokens"]
    assert tokens == ByteTokenizer().encode("<start>user\nhello<end>\n<start>assistant\n")
    closed = ask(server, "tokenize", messages=messages, add_generation_prompt=False).json()["tokens"]
    assert tokens[: len(closed)] == closed
    assert tokens[len(closed)] == START


@given(st.text(max_size=40))
def test_there_and_back(server: Any, text: str) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        tokens = client.post("/tokenize", json={"prompt": text}).json()["tokens"]
        assert client.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": text}


def test_what_clients_need_to_cut_texts_themselves(server: Any) -> None:
    info = httpx.get(f"{server.url}/tokenizer_info", timeout=30).json()
    assert (info["eos_token"], info["bos_token"], info["model_max_length"]) == ("<end>", None, CONTEXT)
    assert ask(server, "tokenize", prompt=info["eos_token"]).json()["tokens"] == [VOCAB - 1]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("tokenize", {"prompt": 1}, "prompt"),
        ("tokenize", {"messages": []}, "messages"),
        ("tokenize", {"prompt": "a", "model": "gpt-9"}, "model"),
        ("tokenize", {"prompt": "a", "promt": "b"}, "promt"),
        ("detokenize", {"tokens": [VOCAB]}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("detokenize", {}, "tokens"),
    ],
)
def test_refusals(server: Any, path: str, body: dict[str, Any], param: str | None) -> None:
    answer = ask(server, path, **body)
    assert answer.status_code == (404 if param == "model" else 400)
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'{"prompt": "\xff"}', "not JSON in UTF-8"),
        (b'{"prompt": "\\ud800"}', "not valid Unicode"),
        (b"[" * 100_000, "JSON"),
        (b'{"tokens": [' + b"1" * 5000 + b"]}", "JSON"),
    ],
)
def test_bad_bodies_are_400(server: Any, content: bytes, says: str) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{server.url}/tokenize", content=content, headers=headers, timeout=30)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    other = httpx.post(f"{server.url}/tokenize", content=b"{}", headers={"content-type": "text/plain"})
    assert "Content-Type: application/json" in other.json()["error"]["message"]
