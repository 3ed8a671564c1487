"""What the server keeps belongs to somebody: another key sees none of it, and its limits hold for batches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from trimtab.server.access.keyfile import TenantRecord, change, new_key, new_salt


@pytest.fixture
def clients(start: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., openai.OpenAI]]:
    """Clients of one server, each with a tenant of its own."""
    made: list[openai.OpenAI] = []
    keys: dict[str, str] = {}
    for name in ("ann", "ben", "cut"):
        keys[name], kept = new_key(int(time.time()), None)
        more: dict[str, Any] = {"models": ("another",)} if name == "cut" else {}
        tenant = TenantRecord(name=name, salt=new_salt(), keys=(kept,), **more)
        change(tmp_path / "keys.json", lambda content, tenant=tenant: content.replaced(tenant))
    server = start(f"keys_file={tmp_path / 'keys.json'}", f"state_dir={tmp_path / 'state'}")

    def client(name: str) -> openai.OpenAI:
        made.append(openai.OpenAI(base_url=f"{server.url}/v1", api_key=keys[name], max_retries=0, timeout=60))
        return made[-1]

    yield client
    for one in made:
        one.close()


def test_files_and_batches_are_private(clients: Callable[..., openai.OpenAI]) -> None:
    ann, ben = clients("ann"), clients("ben")
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "T"}}
    file = ann.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = ann.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    for _ in range(200):
        if (found := ann.batches.retrieve(batch.id)).status == "completed":
            break
        time.sleep(0.05)
    assert found.request_counts is not None
    assert found.request_counts.completed == 1
    assert list(ben.files.list()) == list(ben.batches.list()) == []
    for ask, thing in (
        (ben.files.retrieve, file.id),
        (ben.files.content, file.id),
        (ben.files.content, found.output_file_id),
        (ben.files.delete, file.id),
        (ben.batches.retrieve, batch.id),
        (ben.batches.cancel, batch.id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask(str(thing))
    with pytest.raises(openai.BadRequestError, match="No such File"):
        ben.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="there is no"):
        ben.files.list(after=file.id)
    assert len(list(ann.files.list())) == 2


def test_conversations_are_private(clients: Callable[..., openai.OpenAI]) -> None:
    ann, ben = clients("ann"), clients("ben")
    made = ann.responses.create(model="speller", input="secret", max_output_tokens=4)
    for ask in (ben.responses.retrieve, ben.responses.delete, ben.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)
    with pytest.raises(openai.BadRequestError) as caught:
        ben.responses.create(model="speller", input="more", previous_response_id=made.id)
    assert caught.value.code == "previous_response_not_found"
    assert ann.responses.create(model="speller", input="more", previous_response_id=made.id).output_text


def test_a_batch_is_no_way_around_a_limit(clients: Callable[..., openai.OpenAI]) -> None:
    """A key that may not use the model may not have it used either."""
    cut = clients("cut")
    file = cut.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    with pytest.raises(openai.PermissionDeniedError):
        cut.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    with pytest.raises(openai.PermissionDeniedError):
        cut.embeddings.create(model="speller", input="x")
    with pytest.raises(openai.PermissionDeniedError):
        cut.responses.create(model="speller", input="x")
