"""From a request's fields to the engine's sampling parameters; what cannot be honoured is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trimtab.engine.sampling import SamplingParams
from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from trimtab.engine.grammar import Grammar
    from trimtab.server.api.schemas import ChatRequest, CompletionRequest, GenerationRequest


def sampling_params(
    body: GenerationRequest,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    choices: int | None = None,
    grammar: Grammar | None = None,
) -> SamplingParams:
    """What the engine needs; fields that the request leaves out keep the engine's own defaults.

    Parameters
    ----------
    choices : outputs to make, when they are not as many as are answered
    grammar : what the answer must look like; `structured.grammar_of` reads it

    Raises
    ------
    UsageError : values that each pass but do not fit together
    """
    fields: dict[str, Any] = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "logit_bias": _bias(body.logit_bias),
        "seed": body.seed,
        "stop": _stops(body.stop),
        "stop_token_ids": body.stop_token_ids and tuple(body.stop_token_ids),
        "min_tokens": body.min_tokens,
        "ignore_eos": body.ignore_eos,
        "logprobs": logprobs,
        "prompt_logprobs": prompt_logprobs,
        "grammar": grammar,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return SamplingParams(max_tokens=max_tokens, n=choices or body.n or 1, **given)


def refuse_unsupported(body: ChatRequest | CompletionRequest) -> None:
    """Refuse fields that would change the answer and that this server cannot honour.

    Values that ask for nothing (an empty tool list, `{"type": "text"}`) pass.
    """
    for name, harmless in _UNSUPPORTED.items():
        value = getattr(body, name, None)
        if value is not None and value not in harmless:
            raise ApiError.invalid(name, f"Unsupported parameter: '{name}'.", "unsupported_parameter")
    if body.prompt_logprobs is not None and body.stream:
        raise ApiError.invalid("prompt_logprobs", "'prompt_logprobs' does not go with 'stream': true.")
    if body.stream_options is not None and not body.stream:
        raise ApiError.invalid("stream_options", "'stream_options' goes with 'stream': true.")


_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"], []),
    "audio": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "moderation": (),
}


def _stops(stop: str | list[str] | None) -> tuple[str, ...] | None:
    if stop is None:
        return None
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stops:
        raise ApiError.invalid("stop", "Invalid 'stop': an empty text would stop at once.")
    return stops


def _bias(bias: dict[str, float] | None) -> dict[int, float] | None:
    if bias is None:
        return None
    for key in bias:
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise ApiError.invalid("logit_bias", f"Invalid key in 'logit_bias': {key!r} is no token id.")
    return {int(key): value for key, value in bias.items()}
