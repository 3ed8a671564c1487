"""What a request must be before it may queue: known tokens, and no longer than the engine can hold."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from trimtab.engine.sampling import SamplingParams
from trimtab.errors import TooLong, UsageError


def checked_tokens(prompt: Sequence[int], vocab_size: int) -> array[int]:
    """A prompt as machine integers.

    Raises
    ------
    UsageError : it is empty, or holds what is no token of the model
    """
    if not len(prompt):
        raise UsageError("the prompt has no tokens", param="prompt")
    try:
        tokens = array("i", prompt)
    except (TypeError, OverflowError) as error:
        raise UsageError(
            f"the prompt must be token ids from 0 to {vocab_size - 1}", param="prompt"
        ) from error
    wrong = min(tokens) if min(tokens) < 0 else max(tokens)
    if not 0 <= wrong < vocab_size:
        message = f"the prompt holds token {wrong}; the model knows 0 to {vocab_size - 1}"
        raise UsageError(message, param="prompt")
    return tokens


def output_limit(prompt_tokens: int, params: SamplingParams, context: int, model_context: int) -> int:
    """Tokens, prompt included, at which the output ends.

    Parameters
    ----------
    context : most tokens the engine can hold for one request
    model_context : most that the model was made for

    Raises
    ------
    TooLong : prompt and least output exceed the context
    """
    asked = params.max_tokens
    least = max(1, params.min_tokens) if asked is None else asked
    if prompt_tokens + least <= context:
        return context if asked is None else prompt_tokens + asked
    more = f" and {least} of output" if least else ""
    hint = "shorten the prompt or lower `max_tokens`"
    if context < model_context:
        hint += f"; the model allows {model_context} tokens with a larger `--context` or `--memory`"
    message = f"{prompt_tokens} tokens of prompt{more} exceed the context of {context} tokens"
    raise TooLong(message, hint, "prompt")
