"""Log-probabilities in the two shapes the API has for them.

A token is named by its text; bytes that are no text on their own are written `bytes:\\xf0\\x9f`, so that two
tokens never share a name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from trimtab.server.api.schemas import (
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TopLogprob,
)

if TYPE_CHECKING:
    from trimtab.engine.output import TokenLogprob
    from trimtab.models.tokenizer import Tokenizer

# JSON has no infinity; this is what OpenAI sends for a token that could not have been chosen.
LOWEST = -9999.0


def chat_logprobs(scored: Iterable[TokenLogprob], tokenizer: Tokenizer) -> ChatLogprobs:
    """`logprobs` of a chat choice."""
    return {
        "content": [
            {
                **_top(entry.token, entry.logprob, tokenizer),
                "top_logprobs": [_top(token, logprob, tokenizer) for token, logprob in entry.top],
            }
            for entry in scored
        ],
        "refusal": None,
    }


def completion_logprobs(
    scored: Sequence[TokenLogprob], tokenizer: Tokenizer, offset: int, *, alternatives: bool
) -> CompletionLogprobs:
    """`logprobs` of a plain completion.

    Parameters
    ----------
    offset : where the first token's text begins in the choice's text
    alternatives : list other likely tokens too
    """
    names = [token_name(entry.token, tokenizer) for entry in scored]
    offsets = []
    for entry in scored:
        offsets.append(offset)
        offset += text_length([entry], tokenizer)
    tops: list[dict[str, float] | None] = []
    for entry in scored:
        if math.isnan(entry.logprob):
            tops.append(None)  # the first token of a prompt has no probability
            continue
        top: dict[str, float] = {}
        for token, logprob in (*entry.top, (entry.token, entry.logprob)):
            # Two tokens may stand for the same text; the likelier one keeps the name.
            top.setdefault(token_name(token, tokenizer), _finite(logprob))
        tops.append(top)
    return {
        "tokens": names,
        "token_logprobs": [None if math.isnan(entry.logprob) else _finite(entry.logprob) for entry in scored],
        "top_logprobs": tops if alternatives else None,
        "text_offset": offsets,
    }


def prompt_logprobs(
    entries: Sequence[TokenLogprob | None], most: int, tokenizer: Tokenizer
) -> PromptLogprobs:
    """Scores of a prompt in vLLM's shape.

    Parameters
    ----------
    most : alternatives that were asked for; the entries may hold more
    """
    return [None if entry is None else _by_token(entry, most, tokenizer) for entry in entries]


def _by_token(entry: TokenLogprob, most: int, tokenizer: Tokenizer) -> dict[str, PromptLogprob]:
    ranks = {token: rank for rank, (token, _) in enumerate(entry.top, 1)}
    listed = dict(entry.top[:most])
    listed.setdefault(entry.token, entry.logprob)
    return {
        str(token): {
            "logprob": _finite(logprob),
            "rank": ranks.get(token),
            "decoded_token": token_name(token, tokenizer),
        }
        for token, logprob in listed.items()
    }


def text_length(scored: Iterable[TokenLogprob], tokenizer: Tokenizer) -> int:
    """Characters that these tokens add to a text; part of a character adds none."""
    return sum(len(tokenizer.token_bytes(entry.token).decode("utf-8", "ignore")) for entry in scored)


def token_name(token: int, tokenizer: Tokenizer) -> str:
    """What an answer calls a token."""
    raw = tokenizer.token_bytes(token)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _top(token: int, logprob: float, tokenizer: Tokenizer) -> TopLogprob:
    return {
        "token": token_name(token, tokenizer),
        "logprob": _finite(logprob),
        "bytes": list(tokenizer.token_bytes(token)),
    }


def _finite(logprob: float) -> float:
    return max(float(logprob), LOWEST)
