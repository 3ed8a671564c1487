"""OpenAI's own client for the servers that the tests start."""

from __future__ import annotations

from typing import Any

import openai


def client_of(server: Any) -> openai.OpenAI:
    """The official client, which asks once and does not wait for ever."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)
