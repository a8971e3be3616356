"""Reads and validates the JSON of a request for a response."""

from dataclasses import dataclass, field
from typing import Any

from hfkit.commands.serve.errors import ApiError
from hfkit.core.names import is_utf8
from hfkit.data.messages import Messages, RenderError, to_messages, tools_of
from hfkit.data.rendering import variables_of

MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
"""The fields of a message that a chat template may read. Clients send others back, such as `refusal`."""
MAX_STOPS, MAX_STOP_LENGTH = 16, 1000
HIGHEST_TEMPERATURE, GREEDY = 2.0, 1e-3
"""The highest temperature, and the one below which the response is greedy: logits would overflow."""
LOWEST_TOP_P = 1e-6
LARGEST_LENGTH = 2**31 - 1
LARGEST_SEED = 2**63 - 1
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
        **read_common(body, ("max_completion_tokens", "max_tokens")),
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
    if isinstance(prompt, str) and not is_utf8(prompt):
        raise ApiError(400, "prompt: it has half of a surrogate pair, which is not valid UTF-8", "prompt")
    return Request(prompt=prompt, is_chat=False, **read_common(body, ("max_tokens",)))


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


def read_common(body: dict, lengths: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of `Request` that both kinds of requests have.

    Args:
        lengths: the names of the field with the most tokens of the response; the first one given is used.

    Raises:
        ApiError: a field is invalid or not supported.
    """
    for name, neutral in NEUTRAL.items():
        allowed = neutral if isinstance(neutral, tuple) else (neutral,)
        if body.get(name) is not None and body[name] not in allowed:
            raise ApiError(400, f"{name}: {body[name]!r} is not supported: leave it out", name, "unsupported_parameter")
    model = body.get("model", "")
    if not isinstance(model, str):
        raise ApiError(400, "model: expected a text", "model")
    length = next((name for name in lengths if body.get(name) is not None), lengths[0])
    options = body.get("stream_options") or {}
    temperature = number(body, "temperature", float, 0, HIGHEST_TEMPERATURE, 1.0)
    return {
        "model": model,
        "max_tokens": number(body, length, int, 1, LARGEST_LENGTH),
        "temperature": temperature if temperature >= GREEDY else 0.0,
        "top_p": max(number(body, "top_p", float, 0, 1, 1.0), LOWEST_TOP_P),
        "seed": number(body, "seed", int, -LARGEST_SEED, LARGEST_SEED),
        "stop_texts": read_stops(body.get("stop")),
        "stream": flag(body, "stream"),
        "include_usage": isinstance(options, dict) and flag(options, "include_usage"),
    }


def number(body: dict, name: str, kind: type, low: float, high: float, default=None):
    """Return a number of a request.

    Raises:
        ApiError: it is not a number, or out of range.
    """
    value = body.get(name)
    if value is None:
        return default
    types = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, types) or not low <= value <= high:
        what = "an integer" if kind is int else "a number"
        raise ApiError(400, f"{name}: {value!r} -> expected {what} from {low} to {high}", name)
    return kind(value)


def flag(body: dict, name: str) -> bool:
    """Return a boolean of a request, by default False.

    Raises:
        ApiError: it is something else.
    """
    value = body.get(name)
    if not isinstance(value, (bool, type(None))):
        raise ApiError(400, f"{name}: {value!r} -> expected true or false", name)
    return bool(value)


def read_stops(given: object) -> tuple[str, ...]:
    """Return the texts that end a response.

    Raises:
        ApiError: they are not a few short texts.
    """
    stop_texts = [given] if isinstance(given, str) else given or []
    if not isinstance(stop_texts, list) or not all(isinstance(one, str) and one for one in stop_texts):
        raise ApiError(400, "stop: expected a text or a list of texts", "stop")
    if len(stop_texts) > MAX_STOPS or any(len(one) > MAX_STOP_LENGTH for one in stop_texts):
        raise ApiError(400, f"stop: expected at most {MAX_STOPS} texts of {MAX_STOP_LENGTH} characters", "stop")
    return tuple(stop_texts)
