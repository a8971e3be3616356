"""Normalizes conversations of rows, strings or messages, for chat templates."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from hfkit.core.limits import load_json

Messages = list[dict]
REASONING = ("reasoning_content", "reasoning", "thinking")
"""The names of the message field with its thinking; see `name_reasoning`."""
OTHER_PARTS = ("image", "image_url", "input_image", "video", "video_url", "audio", "audio_url", "input_audio", "file")
"""The types of parts of a message's content that are not text, in the formats of OpenAI and Transformers."""
OTHER_CONTENT = ("text", "value", "parts", "message", "body", "utterance")
"""Fields in which other formats have the content of a message."""
TRAIN_FIELDS = ("weight", "train", "training", "trainable", "loss")
"""Fields of a message that decide whether it is trained on: 0 or 1, false or true."""
PART_FIELDS = ("train_detail", "training_detail")

USUAL_ROLES = dict.fromkeys(("user", "human", "prompter"), "user") | {"system": "system"}
USUAL_ROLES |= dict.fromkeys(("assistant", "gpt", "chatgpt", "chatbot", "bot", "model", "ai"), "assistant")
USUAL_ROLES |= dict.fromkeys(("tool", "function"), "tool")
"""The usual name of each spelling of a role, in lowercase."""


class RenderError(ValueError):
    """A row cannot be rendered. The text is short, since rows are counted by it."""


def usual_role(role: Any) -> Any:
    """Return the usual name of a role; an unknown one, or one that is not a text, is returned unchanged."""
    return USUAL_ROLES.get(role.strip().lower(), role) if isinstance(role, str) else role


def to_messages(given: object, role: str) -> Messages:
    """Return text as one message of `role`, and messages normalized (see `normalize_message`).

    Raises:
        RenderError: `given` is neither text nor messages, or a message cannot be read.
    """
    if isinstance(given, str):
        return [{"role": role, "content": given}]
    if isinstance(given, list) and all(isinstance(message, dict) and "role" in message for message in given):
        return [normalize_message(message) for message in given]
    if isinstance(given, (int, float, dict)):  # how `datasets` reads a column with both
        raise RenderError("neither text nor messages (in a column with messages, JSON text is parsed)")
    raise RenderError("neither text nor messages ({role: ..., content: ...})")


def as_messages(prompt: str | Messages) -> Messages:
    """Return a prompt as messages; text is one user message."""
    return to_messages(prompt, "user")


def as_reply(reply: str | Messages) -> Messages:
    """Return a response as messages; text is one assistant message."""
    return to_messages(reply, "assistant")


def readable_turns(prompt: str | Messages) -> list[dict[str, str]]:
    """Return the messages of a prompt for people: `role` and `content`; tool calls without content are JSON.

    Raises:
        RenderError: as `to_messages`.
    """
    return [
        {
            "role": str(message["role"]),
            "content": message.get("content") or (json.dumps(calls) if (calls := message.get("tool_calls")) else ""),
        }
        for message in as_messages(prompt)
    ]


def is_empty_message(message: dict) -> bool:
    """Return whether a message has neither content nor tool calls; white space is content."""
    return not (message.get("content") or message.get("tool_calls"))


def normalize_message(message: dict) -> dict:
    """Return a message with its content as text and the arguments of its tool calls as mappings, without null fields.

    In a row, the content may be in parts and the arguments may be JSON. Arrow adds null fields, and templates test
    whether a field exists.

    Raises:
        RenderError: a part is not text, or the tool calls are malformed.
    """
    if isinstance(message.get("content"), list):
        message = message | {"content": "".join(map(part_text, message["content"]))}
    others = [name for name in OTHER_CONTENT if message.get(name)]
    if others and message.get("content") is None and not message.get("tool_calls"):
        raise RenderError(f"with messages whose text is in {others[0]!r} instead of 'content'")
    if not isinstance(message.get("content"), (str, type(None))):
        raise RenderError("with content that is not text")
    message = {name: value for name, value in message.items() if value is not None}
    if "tool_calls" not in message:
        return message
    message = without_nulls(message)
    calls = message.pop("tool_calls")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RenderError("tool_calls that are not a list of calls")
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, dict):
            raise RenderError("tool_calls that name no function ({function: {name: ..., arguments: ...}})")
        if isinstance(function.get("arguments"), str):
            function["arguments"] = parse_json(function["arguments"], "tool_calls whose arguments are not JSON")
    return message | {"tool_calls": calls} if calls else message


def with_content(messages: Messages) -> Messages:
    """Return messages with "" as the content of those without one: tool calls, or the result of a tool.

    Transformers removes null fields, and many templates add the content to other text.

    Raises:
        RenderError: a user's message has no content.
    """
    if any(message["role"] == "user" and message.get("content") is None for message in messages):
        raise RenderError("with a user message without content")
    return [message if message.get("content") else message | {"content": ""} for message in messages]


def with_json_arguments(messages: Messages) -> Messages:
    """Return messages with the arguments of their tool calls as JSON."""
    return [
        message | {"tool_calls": [*map(call_with_json_arguments, message["tool_calls"])]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def call_with_json_arguments(call: dict) -> dict:
    """Return a tool call with its arguments as JSON."""
    function = call.get("function", call)
    if not isinstance(function.get("arguments"), (dict, list)):
        return call
    function = function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}
    return call | {"function": function} if "function" in call else function


def reasoning_of(message: dict) -> str | None:
    """Return the thinking in a separate field of a message; None if it has no such field."""
    return next((message[name] for name in REASONING if isinstance(message.get(name), str)), None)


def name_reasoning(message: dict) -> dict:
    """Return a message with its thinking, if any, under the two names that most templates read.

    Transformers does this when it renders a message, but not yet in 5.17.
    """
    reasoning = reasoning_of(message)
    names = [name for name in ("reasoning_content", "thinking") if message.get(name) is None]
    return message if reasoning is None else message | dict.fromkeys(names, reasoning)


def is_trained(message: dict) -> bool:
    """Return whether the assistant's message is trained on; one with `weight: 0` or `train: false` is not.

    Raises:
        RenderError: such a field is neither 0 nor 1, or selects a part of the message.
    """
    given = {name: message[name] for name in TRAIN_FIELDS if message.get(name) is not None}
    if wrong := next((name for name, value in given.items() if value not in (0, 1)), None):
        raise RenderError(f"with a message whose {wrong} is neither 0 nor 1")
    if any(message.get(name) for name in PART_FIELDS):
        raise RenderError("with a message that selects a part to train on (train_detail)")
    return message["role"] == "assistant" and 0 not in given.values()


def part_text(part: object) -> str:
    """Return the text of one part of a message's content.

    Raises:
        RenderError: the part is an image or anything else that is not text.
    """
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in OTHER_PARTS:
        raise RenderError(f"with content that is not text: {kind}")
    raise RenderError("with content that is not text ({type: text, text: ...})")


def tools_of(given: object) -> list[dict] | None:
    """Return the tools of a row, JSON schemas of functions, from a list or its JSON; None if there are none.

    Raises:
        RenderError: `given` is neither a list nor JSON.
    """
    tools = parse_json(given, "tools that are not JSON") if isinstance(given, str) and given else given
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RenderError("tools that are not a list of JSON schemas")
    return [as_schema(without_nulls(tool)) for tool in tools]


def as_schema(tool: dict) -> dict:
    """Return the JSON schema of a tool in Transformers' format; a schema of only its function is wrapped."""
    return {"type": "function", "function": tool} if "name" in tool and not {"function", "type"} & tool.keys() else tool


def parse_json(text: str, fault: str) -> object:
    """Return the value of a JSON text.

    Raises:
        RenderError: the text is not JSON; the message is `fault`.
    """
    try:
        return load_json(text)
    except ValueError as error:
        raise RenderError(fault) from error


def without_nulls(value: object) -> object:
    """Return lists and mappings without the null fields that Arrow adds for fields of other rows."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def squash(text: str) -> str:
    """Return a text without white space."""
    return "".join(text.split())


def iter_strings(value: object) -> Iterator[str]:
    """Yield every string in lists and mappings of any depth, except keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from iter_strings(item)


def map_strings(value: object, change: Callable[[str], str]) -> object:
    """Return lists and mappings of any depth with every string changed, except keys."""
    if isinstance(value, dict):
        return {key: map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [map_strings(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
