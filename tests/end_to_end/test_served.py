"""`trimtab serve` with the default model: the same words as the library, and no more memory than promised."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

ALLOWANCE_BYTES = (
    120_000_000  # beside the model file: Python, the server, scratch memory and the cache in use
)


@pytest.fixture(scope="module")
def served(default_model: Path) -> Iterator[tuple[str, int]]:
    """Address and process id."""
    command = [sys.executable, "-c", "from trimtab.cli.main import main; main()", "serve", str(default_model)]
    with subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        yield line.partition(" at ")[2].partition(" ")[0], process.pid
        process.terminate()
        assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0


def test_the_server_says_what_the_library_says(served: tuple[str, int], default_model: Path) -> None:
    from trimtab import LLM, SamplingParams

    messages: Any = [{"role": "user", "content": "Name three rivers."}]
    with openai.OpenAI(base_url=served[0], api_key="none", timeout=120) as client:
        asked: Any = {"model": default_model.stem, "messages": messages, "max_tokens": 24, "temperature": 0}
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True))
        asked = {"model": default_model.stem, "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 1}
        echoed = client.completions.create(prompt="The capital of France is", **asked)
    text = whole.choices[0].message.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    logprobs = echoed.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == echoed.choices[0].text
    assert echoed.choices[0].text.startswith("The capital of France is")
    with LLM(default_model) as llm:
        assert llm.chat(messages, SamplingParams(temperature=0, max_tokens=24)).text == text


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_while_serving(served: tuple[str, int], default_model: Path) -> None:
    url, process = served
    body = {"messages": [{"role": "user", "content": "Tell me about ships."}], "max_tokens": 64}
    for _ in range(3):
        httpx.post(f"{url}/chat/completions", content=json.dumps(body), timeout=120,
                   headers={"content-type": "application/json"}).raise_for_status()  # fmt: skip
    status = Path(f"/proc/{process}/status").read_text().split("VmRSS:")[1]
    resident_bytes = int(status.split()[0]) * 1024
    assert resident_bytes <= default_model.stat().st_size + ALLOWANCE_BYTES
    assert "torch" not in Path(f"/proc/{process}/maps").read_text()
