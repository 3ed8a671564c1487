"""The wire types of /v1/responses: requests, the items of a conversation, and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from trimtab.server.api.schemas import MAX_LOGPROBS, MAX_STOPS, Metadata, ServiceTier, TokenLogprob, Wire

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class TextPart(Wire):
    """A piece of a message; what the model wrote earlier comes back with its annotations and scores."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Any = None
    logprobs: Any = None
    prompt_cache_breakpoint: Any = None


class RefusalPart(Wire):
    type: Literal["refusal"]
    refusal: str


# Without references, which would lead nowhere from inside an item.
Part = Annotated[
    dict[str, Any], WithJsonSchema({"anyOf": [kind.model_json_schema() for kind in (TextPart, RefusalPart)]})
]


class MessageItem(Wire):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    id: str | None = None
    status: ItemStatus | None = None
    phase: str | None = None


class CallItem(Wire):
    """A call that the model wants made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: ItemStatus | None = None


class CallOutputItem(Wire):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Part]
    id: str | None = None
    status: ItemStatus | None = None


class ReasoningItem(Wire):
    """What another model thought; this one is not shown it."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Any = None
    content: Any = None
    encrypted_content: str | None = None
    status: ItemStatus | None = None


class TextSettings(Wire):
    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class StreamOptions(Wire):
    include_obfuscation: bool | None = None


class Reasoning(Wire):
    effort: Literal["none"] | None = None
    summary: str | None = None
    generate_summary: str | None = None


# Items are read one by one, so that an error names its place and nothing else; the document still says what
# they are.
Item = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "anyOf": [
                kind.model_json_schema() for kind in (MessageItem, CallItem, CallOutputItem, ReasoningItem)
            ]
        }
    ),
]


class FunctionTool(Wire):
    """A function that the model may call."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


# Read by the chat endpoint's types, which say what is wrong with one.
DescribedTool = Annotated[dict[str, Any], WithJsonSchema(FunctionTool.model_json_schema())]


class ResponseRequest(Wire):
    input: Annotated[str | list[Item] | None, Field(description="a text, or items: messages and calls")] = (
        None
    )
    model: str | None = None
    instructions: Annotated[str | None, Field(description="what the system says, for this answer only")] = (
        None
    )
    previous_response_id: Annotated[str | None, Field(description="continue this one's conversation")] = None
    max_output_tokens: Annotated[int | None, Field(ge=1, lt=2**31)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None
    include: list[str] | None = None
    text: TextSettings | None = None
    tools: list[DescribedTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        Field(description="auto leaves out the oldest turns that do not fit"),
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: Annotated[bool | None, Field(description="keep it for previous_response_id; default true")] = None
    metadata: Metadata | None = None

    # Extras that OpenAI does not have here.
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    top_k: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=100)] = None
    chat_template_kwargs: dict[str, Any] | None = None
    cache_salt: Annotated[str | None, Field(max_length=256)] = None

    # Without effect on the answer.
    max_tool_calls: Annotated[int | None, Field(ge=1)] = None
    user: str | None = None
    service_tier: ServiceTier | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    reasoning: Reasoning | None = None
    background: Literal[False] | None = None
    image: Any = None
    access_programs: Any = None

    # Would change the answer.
    conversation: None = None
    prompt: None = None
    moderation: None = None
    context_management: None = None
    background_options: None = None


class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprob]


class OutputMessage(TypedDict):
    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class OutputCall(TypedDict):
    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class InputTokens(TypedDict):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokens(TypedDict):
    reasoning_tokens: int


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class ResponseError(TypedDict):
    code: str
    message: str


class IncompleteDetails(TypedDict):
    reason: Literal["max_output_tokens"]


class ReasoningSettings(TypedDict):
    effort: None
    summary: None


class TextAnswer(TypedDict):
    format: dict[str, Any]
    verbosity: NotRequired[str]


class Response(TypedDict):
    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["completed", "incomplete", "failed", "in_progress"]
    background: bool
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[OutputMessage | OutputCall]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningSettings
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: TextAnswer
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None
    metadata: dict[str, str]


class ResponseDeleted(TypedDict):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItems(TypedDict):
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokenCount(TypedDict):
    object: Literal["response.input_tokens"]
    input_tokens: int
