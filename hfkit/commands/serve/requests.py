"""Reads and validates the JSON of a request for a response."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from hfkit.commands.serve.errors import ApiError
from hfkit.commands.web.fields import Given, JsonFields, read_fields
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


class Request(JsonFields):
    """A request for one response: the fields of the JSON, and what hfkit makes of its messages.

    Attributes:
        prompt: messages, or for a completion text or token ids.
        tools: JSON schemas of functions for the chat template, or None.
        variables: of the chat template.
        temperature: 0 is greedy.
        stop: texts that end the response and are not part of it.
        stream: whether the response is sent in pieces.
    """

    prompt: Any
    tools: Any = None
    variables: dict = {}
    is_chat: bool = True
    model: str = ""
    max_tokens: Length = None
    max_completion_tokens: Length = None
    temperature: Annotated[
        float, Field(ge=0, le=2), AfterValidator(lambda given: given if given >= GREEDY else 0.0)
    ] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1), AfterValidator(lambda given: max(given, LOWEST_TOP_P))] = 1.0
    seed: Annotated[int, Field(gt=-(2**63), lt=2**63)] | None = None
    stop: Annotated[
        list[StopText], Field(max_length=16), BeforeValidator(lambda one: [one] if isinstance(one, str) else one)
    ] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @property
    def longest(self) -> int | None:
        """The most tokens of the response; None: the server's default."""
        return self.max_completion_tokens or self.max_tokens


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
    return read_request(
        body, prompt=messages, tools=tools if choice == "auto" else None, variables=variables, is_chat=True
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
    not_read = {"tools": None, "variables": None, "max_completion_tokens": None}
    return read_request(body, prompt=prompt, is_chat=False, **not_read)


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


def read_request(body: dict, **own: Any) -> Request:
    """Return a request with fields that are not the client's.

    Raises:
        ApiError: a field is invalid or not supported.
    """
    for name, neutral in NEUTRAL.items():
        allowed = neutral if isinstance(neutral, tuple) else (neutral,)
        if body.get(name) is not None and body[name] not in allowed:
            raise ApiError(400, f"{name}: {body[name]!r} is not supported: leave it out", name, "unsupported_parameter")
    return read_valid(Request, body | own)


def read_valid(kind: type[Given], body: dict) -> Given:
    """Return the fields of a request.

    Raises:
        ApiError: one of them is invalid.
    """
    return read_fields(kind, body, lambda name, message: ApiError(400, message, name))
