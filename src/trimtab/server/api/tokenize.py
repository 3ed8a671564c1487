"""/tokenize, /detokenize, /tokenizer_info: what the model's tokenizer makes of a text, and back.

The shapes are vLLM's.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

from fastapi.responses import Response
from pydantic import Field
from typing_extensions import TypedDict

from trimtab.server.api.generation import INLINE_CHARACTERS
from trimtab.server.api.logprobs import token_name
from trimtab.server.api.messages import conversation_tokens
from trimtab.server.api.schemas import Message, TokenId, Wire
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request

    from trimtab.server.served import Served


class TokenizeRequest(Wire):
    """A text, or a conversation as the chat endpoint takes it."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message] | None, Field(min_length=1)] = None
    add_special_tokens: Annotated[
        bool | None, Field(description="begin as the model's texts begin; a conversation does so by itself")
    ] = None
    return_token_strs: bool | None = None
    add_generation_prompt: Annotated[bool | None, Field(description="end with the answer's opening")] = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(Wire):
    model: str | None = None
    tokens: list[TokenId]


class Tokenized(TypedDict):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(TypedDict):
    prompt: str


class TokenizerInfo(TypedDict):
    """What clients need that count and cut tokens themselves; null where the model has none."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    chat_template: str | None


async def info(request: Request, served: Served) -> Response:
    """The special tokens by their texts, and the chat template."""
    tokenizer = served.tokenizer
    names = tokenizer.special_names
    answer: TokenizerInfo = {
        "tokenizer_class": type(tokenizer).__name__,
        "vocab_size": tokenizer.vocab_size,
        "model_max_length": served.context,
        "bos_token": names.get("bos_token"),
        "eos_token": names.get("eos_token"),
        "unk_token": names.get("unk_token"),
        "pad_token": names.get("pad_token"),
        "chat_template": tokenizer.chat_template,
    }
    return Response(json.dumps(answer), media_type="application/json")


async def tokenize(request: Request, body: TokenizeRequest, served: Served) -> Response:
    """Token ids, how many, and how many fit."""
    served.check_name(body.model)
    tokens = await _tokens(body, served)
    names = [token_name(token, served.tokenizer) for token in tokens] if body.return_token_strs else None
    answer: Tokenized = {
        "count": len(tokens),
        "max_model_len": served.context,
        "tokens": tokens,
        "token_strs": names,
    }
    return Response(json.dumps(answer), media_type="application/json")


async def detokenize(request: Request, body: DetokenizeRequest, served: Served) -> Response:
    """The text of token ids, control tokens included."""
    served.check_name(body.model)
    size = served.engine.runner.config.vocab_size
    if wrong := [token for token in body.tokens if token >= size]:
        message = f"Invalid 'tokens': {wrong[0]} is no token; this model has 0 to {size - 1}."
        raise ApiError.invalid("tokens", message)

    def decode() -> str:
        return served.tokenizer.decode(body.tokens, skip_special=False)

    short = len(body.tokens) <= INLINE_CHARACTERS
    answer: Detokenized = {"prompt": decode() if short else await asyncio.to_thread(decode)}
    return Response(json.dumps(answer), media_type="application/json")


async def _tokens(body: TokenizeRequest, served: Served) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        message = "Give either 'prompt' or 'messages'."
        raise ApiError.invalid("prompt", message, "missing_required_parameter")
    if body.messages is not None:
        variables = dict(body.chat_template_kwargs or {})
        if body.add_generation_prompt is not None:
            variables["add_generation_prompt"] = body.add_generation_prompt
        return await conversation_tokens(served, body.messages, variables, tools=body.tools)
    text = body.prompt or ""
    special = body.add_special_tokens is not False

    def encode() -> list[int]:
        return served.tokenizer.encode(text, add_special=special)

    return encode() if len(text) <= INLINE_CHARACTERS else await asyncio.to_thread(encode)
