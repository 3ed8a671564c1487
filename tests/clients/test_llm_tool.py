"""The `llm` command with a model in its `extra-openai-models.yaml`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llm")
pytestmark = pytest.mark.slow

MODELS = """
- model_id: tiny
  model_name: smollm2
  api_base: {url}/v1
  supports_schema: true
  supports_tools: true
- model_id: tiny-text
  model_name: smollm2
  api_base: {url}/v1
  completion: true
"""
QUESTION = "What is the capital of France?"


@pytest.fixture
def llm_tool(served: Any, tmp_path: Path) -> Callable[..., str]:
    """Run the command with a user folder of its own."""
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(url=served.url))

    def run(*arguments: str) -> str:
        env = os.environ | {"LLM_USER_PATH": str(tmp_path)}
        command = [sys.executable, "-m", "llm", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=env, timeout=120, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_prompts_and_conversations(llm_tool: Callable[..., str]) -> None:
    options = ("-o", "temperature", "0", "-o", "max_tokens", "24")
    streamed = llm_tool("-m", "tiny", "-s", "Be brief.", QUESTION, *options)
    assert "Paris" in streamed
    assert llm_tool("-m", "tiny", "-s", "Be brief.", QUESTION, *options, "--no-stream") == streamed
    llm_tool("-m", "tiny", QUESTION, *options)
    assert llm_tool("-c", "And of Italy?", *options)
    (last, *_) = json.loads(llm_tool("logs", "--json", "-n", "1"))
    assert last["model"] == "tiny"
    assert last["input_tokens"] > 10


def test_answers_of_a_form(llm_tool: Callable[..., str]) -> None:
    schema = "city: the capital, people int"
    for more in ((), ("--no-stream",)):
        said = llm_tool("-m", "tiny", "--schema", schema, QUESTION, "-o", "max_tokens", "200", *more)
        found = json.loads(said)
        assert isinstance(found["city"], str)
        assert isinstance(found["people"], int)


def test_completion_models(llm_tool: Callable[..., str]) -> None:
    said = llm_tool(
        "-m", "tiny-text", "The capital of France is", "-o", "max_tokens", "8", "-o", "temperature", "0"
    )
    assert "Paris" in said
