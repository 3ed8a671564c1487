"""What grammars take comes out of the pages: the promise of `--memory` holds, or the request is refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
from real_server import RealServer
from test_memory import smallest

MORE_MEGABYTES = 90


def asked(number: int) -> dict[str, Any]:
    """A request with a schema of its own."""
    schema = {
        "type": "object",
        "properties": {
            f"name {number}": {"type": "string"},
            "sizes": {"type": "array", "items": {"type": "number"}},
        },
        "required": [f"name {number}", "sizes"],
        "additionalProperties": False,
    }  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    return {
        "messages": [{"role": "user", "content": f"Describe thing {number}."}], "max_tokens": 60,
        "temperature": 1.0, "seed": number, "response_format": wanted,
    }  # fmt: skip


def test_grammars_stay_inside_the_promise(default_model: Path) -> None:
    megabytes = smallest(str(default_model)) + MORE_MEGABYTES
    with RealServer(str(default_model), "--memory", f"{megabytes}MB") as server:

        def ask(number: int) -> None:
            body = asked(number)
            answer = server.client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            schema = body["response_format"]["json_schema"]["schema"]
            jsonschema.validate(json.loads(answer.json()["choices"][0]["message"]["content"]), schema)

        with ThreadPoolExecutor(8) as clients:
            list(clients.map(ask, range(40)))
        assert server.status("VmHWM") <= megabytes * 10**6
        assert server.complete("The sea is", max_tokens=4)["finish_reason"] == "length"


def test_a_budget_without_room_for_grammars_refuses_them(default_model: Path) -> None:
    megabytes = smallest(str(default_model))
    with RealServer(str(default_model), "--memory", f"{megabytes}MB") as server:
        answer = server.client.post("/v1/chat/completions", json=asked(1))
        assert answer.status_code == 400, answer.text
        assert "MiB more" in answer.json()["error"]["message"]
        assert server.complete("The sea is", max_tokens=4)["finish_reason"] == "length"
