"""Reads and validates the JSON of a request for a response."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from hfkit.commands.serve.errors import ApiError
from hfkit.commands.web.fields import FieldError, Given, JsonFields, read_fields
from hfkit.data.messages import Messages, RenderError, to_messages, tools_of
from hfkit.data.rendering import variables_of

MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
"""The fields of a message that a chat template may read. Clients send others back, such as `refusal`."""
GREEDY = 1e-3
"""The temperature below which the response is greedy: logits would overflow."""
LOWEST_TOP_P = 1e-6
Length = Annotated[int, Field(ge=1, lt=2**31)] | None
StopText = Annotated[str, Field(min_length=1, max_length=1000)]
NEUTRAL = {
    "n": 1,
    "best_of": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "logit_bias": {},
    "logprobs": False,
    "top_logprobs": 0,
    "top_k": (0, -1),
    "min_p": 0,
    "echo": False,
    "suffix": "",
    "functions": [],
    "function_call": "none",
    "response_format": {"type": "text"},
    "modalities": ["text"],
}
"""Fields that would change the response and are not supported, with the values that change nothing."""


class StreamOptions(JsonFields):
    """The options of a streamed response."""

    include_usage: bool = False


class ResponseSettings(JsonFields):
    """The settings of a response that requests for chats and for completions share."""

    model: str = ""
    max_tokens: Length = None
    max_completion_tokens: Length = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    seed: Annotated[int, Field(gt=-(2**63), lt=2**63)] | None = None
    stop: Annotated[
        list[StopText], Field(max_length=16), BeforeValidator(lambda one: [one] if isinstance(one, str) else one)
    ] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()


@dataclass(frozen=True)
class Request:
    """A request for one response.

    Args:
        model: its name.
        prompt: messages, or for a completion text or token ids.
        tools: JSON schemas of functions for the chat template, or None.
        variables: of the chat template.
        max_tokens: most tokens of the response; None: the server's default.
        temperature: 0 is greedy.
        stop_texts: texts that end the response and are not part of it.
        stream: whether the response is sent in pieces.
        include_usage: whether the last piece has the numbers of tokens.
    """

    model: str
    prompt: Messages | str | list[int]
    tools: list[dict] | None = None
    variables: dict = field(default_factory=dict)
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop_texts: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    is_chat: bool = True


def read_chat(body: dict, system: str | None = None) -> Request:
    """Return the request in the JSON of `/v1/chat/completions`.

    Args:
        system: system prompt of conversations without one.

    Raises:
        ApiError: a field is invalid or not supported.
    """
    messages = read_messages(body.get("messages"), "messages")
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    try:
        tools, variables = tools_of(body.get("tools")), variables_of(body)
    except RenderError as error:
        raise ApiError(400, str(error)) from error
    choice = body.get("tool_choice") or "auto"
    if choice not in ("auto", "none"):
        raise ApiError(400, f"tool_choice: {choice!r} is not supported: send 'auto' or 'none'", "tool_choice")
    return Request(
        prompt=messages,
        tools=tools if choice == "auto" else None,
        variables=variables,
        **read_settings(body),
    )


def read_completion(body: dict) -> Request:
    """Return the request in the JSON of `/v1/completions`.

    Raises:
        ApiError: a field is invalid or not supported.
    """
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    is_ids = isinstance(prompt, list) and all(type(one) is int and one >= 0 for one in prompt)
    if not prompt or not (isinstance(prompt, str) or is_ids):
        raise ApiError(400, "prompt: expected a text, or a list of token ids", "prompt")
    return Request(prompt=prompt, is_chat=False, **read_settings({**body, "max_completion_tokens": None}))


def read_messages(given: object, param: str) -> Messages:
    """Return messages with the fields that chat templates read; the role developer becomes system.

    Raises:
        ApiError: they are not messages with text.
    """
    if not isinstance(given, list) or not given or not all(isinstance(one, dict) for one in given):
        raise ApiError(400, f"{param}: expected a list of messages {{role: ..., content: ...}}", param)
    kept = [{name: one[name] for name in MESSAGE_FIELDS if one.get(name) is not None} for one in given]
    for number, message in enumerate(kept):
        if not isinstance(message.get("role"), str):
            raise ApiError(400, f"{param}[{number}].role: expected a text", param)
        if message["role"] == "developer":
            message["role"] = "system"
        if message["role"] == "assistant":
            message.setdefault("content", "")
        if "content" not in message:
            raise ApiError(400, f"{param}[{number}].content: missing", param)
    try:
        return to_messages(kept, "user")
    except RenderError as error:
        raise ApiError(400, f"{param}: a message {error}", param) from error


def read_settings(body: dict) -> dict[str, Any]:
    """Return the fields of `Request` that both kinds of requests have.

    Raises:
        ApiError: a field is invalid or not supported.
    """
    for name, neutral in NEUTRAL.items():
        allowed = neutral if isinstance(neutral, tuple) else (neutral,)
        if body.get(name) is not None and body[name] not in allowed:
            raise ApiError(400, f"{name}: {body[name]!r} is not supported: leave it out", name, "unsupported_parameter")
    given = read_valid(ResponseSettings, body)
    return {
        "model": given.model,
        "max_tokens": given.max_completion_tokens or given.max_tokens,
        "temperature": given.temperature if given.temperature >= GREEDY else 0.0,
        "top_p": max(given.top_p, LOWEST_TOP_P),
        "seed": given.seed,
        "stop_texts": tuple(given.stop),
        "stream": given.stream,
        "include_usage": given.stream_options.include_usage,
    }


def read_valid(kind: type[Given], body: dict) -> Given:
    """Return the fields of a request.

    Raises:
        ApiError: one of them is invalid.
    """
    try:
        return read_fields(kind, body)
    except FieldError as error:
        raise ApiError(400, str(error), error.name) from error
