"""/v1/files with the official client: what comes back is what went in, within limits, for its owner only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from official_client import client_of


def put(client: openai.OpenAI, content: bytes = b"{}\n", name: str = "in.jsonl", **more: Any) -> Any:
    return client.files.create(file=(name, content), **({"purpose": "batch"} | more))


def test_there_and_back(client: openai.OpenAI, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    path = tmp_path / "data.bin"
    path.write_bytes(content)
    made = client.files.create(file=path, purpose="user_data")
    assert (made.bytes, made.filename, made.purpose, made.status) == (
        256_000,
        "data.bin",
        "user_data",
        "processed",
    )
    assert client.files.retrieve(made.id) == made
    got = client.files.content(made.id)
    assert got.content == content
    assert "data.bin" in got.response.headers["content-disposition"]
    deleted = client.files.delete(made.id)
    assert (deleted.id, deleted.deleted) == (made.id, True)
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(made.id)
        assert caught.value.param == "id"


def test_lists_come_in_pages(start: Callable[..., Any]) -> None:
    with client_of(start()) as client:
        assert list(client.files.list()) == []
        made = [put(client, name=f"{number}.jsonl").id for number in range(7)]
        other = put(client, purpose="user_data").id
        assert [one.id for one in client.files.list(limit=3)] == [other, *made[::-1]]
        assert [one.id for one in client.files.list(limit=2, order="asc")] == [*made, other]
        assert [one.id for one in client.files.list(purpose="user_data")] == [other]
        first = client.files.list(limit=2)
        assert first.has_more
        with pytest.raises(openai.BadRequestError) as caught:
            client.files.list(after="file-none")
        assert caught.value.param == "after"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"purpose": "party"}, "purpose"),
        ({"name": "in.txt"}, "file"),
        ({"expires_after": {"anchor": "created_at", "seconds": 10}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "last_active_at", "seconds": 3600}}, "expires_after.anchor"),
    ],
)
def test_refusals(client: openai.OpenAI, asked: dict[str, Any], param: str) -> None:
    before = len(list(client.files.list()))
    with pytest.raises(openai.BadRequestError) as caught:
        put(client, **asked)
    assert caught.value.param == param
    assert len(list(client.files.list())) == before


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=-1", "limit=99999999999", "order=up", "after=x"]
)
def test_queries_are_checked(server: Any, query: str) -> None:
    answer = httpx.get(f"{server.url}/v1/files?{query}", timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


def test_files_can_expire(client: openai.OpenAI) -> None:
    made = put(client, expires_after={"anchor": "created_at", "seconds": 3600})
    assert made.expires_at == made.created_at + 3600


def test_sizes_have_limits(start: Callable[..., Any], tmp_path: Path) -> None:
    server = start(
        "max_body_bytes=1000", "max_file_bytes=200000", "max_stored_bytes=300000", f"state_dir={tmp_path}"
    )
    with client_of(server) as client:
        assert put(client, b"x" * 200_000).bytes == 200_000  # larger than other bodies may be
        for content in (b"x" * 200_001, b"x" * 400_000):
            with pytest.raises(openai.APIStatusError) as caught:
                put(client, content)
            assert caught.value.status_code == 413
        with pytest.raises(openai.APIStatusError, match="delete some first") as caught:
            put(client, b"x" * 150_000)
        assert caught.value.status_code == 413
        assert len(list((tmp_path / "files").iterdir())) == 1
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x" * 2000}, timeout=30)
        assert answer.status_code == 413


def test_files_survive_a_restart(start: Callable[..., Any], tmp_path: Path) -> None:
    first = start(f"state_dir={tmp_path}")
    with client_of(first) as client:
        made = put(client, b"one\n")
    first.process.kill()
    first.process.wait()
    with client_of(start(f"state_dir={tmp_path}")) as client:
        assert client.files.retrieve(made.id) == made
        assert client.files.content(made.id).content == b"one\n"
