"""The wire types of the OpenAI-compatible API: what a request may hold and what an answer looks like.

Requests are pydantic models, strict and closed: a value of the wrong type and a field nobody knows are
errors, as they are at OpenAI. Fields that OpenAI accepts and that change nothing here are listed, so that
clients which send them work; fields that would change the answer and cannot be honoured are `Any`, and
`sampling.py` refuses them when set. Answers are typed dictionaries: they go to JSON as they are, with nothing
built at start-up.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_LOGPROBS = 20

Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
"""What a client notes on a thing of its own."""


ServiceTier = Literal["auto", "default", "flex", "scale", "priority"]
"""Names that clients may ask for; there is one tier here."""


class Wire(BaseModel):
    """A request or a part of one: nothing coerced, nothing ignored, nothing changed afterwards."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # accepted: padding against traffic analysis is not added here


class GenerationRequest(Wire):
    """What chat and plain completions have in common."""

    model: Annotated[str | None, Field(description="name of the served model; may be left out")] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    n: Annotated[int | None, Field(ge=1, le=MAX_CHOICES, description="choices for each prompt")] = None
    max_tokens: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None

    # Extras that OpenAI does not have; the official client sends them in `extra_body`.
    top_k: Annotated[int | None, Field(ge=0, lt=2**31, description="0 keeps all tokens")] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=100)] = None
    min_tokens: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    ignore_eos: bool | None = None
    stop_token_ids: list[TokenId] | None = None
    response_format: Annotated[
        dict[str, Any] | None,
        Field(description="text, json_object, or json_schema with a name and a schema"),
    ] = None
    structured_outputs: Annotated[
        dict[str, Any] | None, Field(description="one of json, json_object, regex, choice, grammar")
    ] = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: Annotated[str | None, Field(description="in llguidance's Lark dialect")] = None
    prompt_logprobs: Annotated[
        int | None,
        Field(ge=0, le=MAX_LOGPROBS, description="score the prompt too, with so many alternatives"),
    ] = None
    cache_salt: Annotated[
        str | None, Field(max_length=256, description="prompt prefixes are shared only under equal salts")
    ] = None

    # Accepted and without effect on the answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: ServiceTier | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None

    # vLLM's names, with the values that ask for what is done here anyway.
    skip_special_tokens: Literal[True] | None = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: Literal[False] | None = None
    use_beam_search: Literal[False] | None = None
    length_penalty: float | None = None
    request_id: str | None = None


class TextPart(Wire):
    type: Literal["text"]
    text: str


class Message(Wire):
    """One turn of a conversation. Which fields a role needs is checked in `chat.py`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class Function(Wire):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, Field(description="JSON schema of the arguments")] = None
    strict: Annotated[bool | None, Field(description="calls match their schema either way")] = None


class Tool(Wire):
    type: Literal["function"]
    function: Function


class ChatRequest(GenerationRequest):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None
    chat_template_kwargs: dict[str, Any] | None = None

    tools: Annotated[list[Tool] | None, Field(max_length=128)] = None
    tool_choice: Annotated[
        Any, Field(description="none, auto, required, or a function by its name", examples=["auto"])
    ] = None
    parallel_tool_calls: Annotated[bool | None, Field(description="several calls in one answer")] = None

    # Would change the answer; refused by `sampling.refuse_unsupported` when they ask for anything.
    modalities: Any = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    moderation: Any = None

    # Without effect.
    prediction: Any = None


class CompletionRequest(GenerationRequest):
    prompt: Annotated[
        str | list[str] | list[TokenId] | list[list[TokenId]] | None,
        Field(description="without one, a text is begun"),
    ] = None
    echo: bool | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None
    best_of: Annotated[
        int | None, Field(ge=1, le=MAX_CHOICES, description="make so many, answer the n most likely ones")
    ] = None
    suffix: Annotated[str | None, Field(description="what follows, for models that fill gaps")] = None
    add_special_tokens: Annotated[
        bool | None, Field(description="begin a text as the model's texts begin; default true")
    ] = None


class PromptTokensDetails(TypedDict):
    cached_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: NotRequired[PromptTokensDetails]


FinishReason = Literal["stop", "length", "tool_calls"]


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    content: list[TokenLogprob]
    refusal: None


class CalledFunction(TypedDict):
    name: str
    arguments: str


class ToolCall(TypedDict):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class PromptLogprob(TypedDict):
    """A token of a prompt's place; `rank` counts from 1 and is null beyond the alternatives asked for."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""For each token of the prompt itself and its alternatives, by token id; the first has none before it."""


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: NotRequired[PromptLogprobs]


class CompletionLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    prompt_logprobs: NotRequired[PromptLogprobs]


class Completion(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class ModelCard(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int  # not OpenAI's: the context, in tokens, that the server was started with


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelCard]


class ErrorBody(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(TypedDict):
    error: ErrorBody
