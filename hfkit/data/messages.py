"""Conversations as rows give them: strings or messages, with the calls of tools that Arrow has filled with nothings."""

import json
from collections.abc import Callable, Iterator

Messages = list[dict]


class RenderError(ValueError):
    """This row cannot be rendered; the message is short enough to count rows by it."""


def to_messages(given: object, role: str) -> Messages:
    """Return text as one message of `role`, and messages normalized (see `normalize_message`).

    Raises:
        RenderError: neither of the two, or turns that cannot be read.
    """
    if isinstance(given, str):
        return [{"role": role, "content": given}]
    if isinstance(given, list) and all(isinstance(turn, dict) and "role" in turn for turn in given):
        return [normalize_message(turn) for turn in given]
    if isinstance(given, (int, float, dict)):  # what `datasets` makes of a column of both
        raise RenderError("neither text nor messages (beside messages, a text that is JSON is read as what it says)")
    raise RenderError("neither text nor messages ({role: ..., content: ...})")


def as_messages(prompt: str | Messages) -> Messages:
    """A string is one user turn; messages stay as they are."""
    return to_messages(prompt, "user")


def as_reply(reply: str | Messages) -> Messages:
    """A string is one assistant turn; messages stay as they are."""
    return to_messages(reply, "assistant")


def normalize_message(turn: dict) -> dict:
    """A turn as every template reads it: content is text, and arguments of tool calls are mappings.

    A row may have its content in parts, and its arguments as JSON.

    Raises:
        RenderError: parts that are no text, or tool calls that are none.
    """
    if isinstance(turn.get("content"), list):
        turn = turn | {"content": "".join(map(part_text, turn["content"]))}
    if turn.get("tool_calls") is None:
        return turn
    turn = without_nulls(turn)
    calls = turn.pop("tool_calls")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RenderError("tool_calls that are no list of calls")
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, dict):
            raise RenderError("tool_calls that name no function ({function: {name: ..., arguments: ...}})")
        if isinstance(function.get("arguments"), str):
            function["arguments"] = parse_json(function["arguments"], "tool_calls whose arguments are not JSON")
    return turn | {"tool_calls": calls} if calls else turn


def part_text(part: object) -> str:
    """The text of one part of a turn's content.

    Raises:
        RenderError: it is none: an image, or something else.
    """
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise RenderError("with content that is not text ({type: text, text: ...})")


def tools_of(given: object) -> list[dict] | None:
    """The tools of a row: JSON schemas of functions, as a list or as its JSON.

    Raises:
        RenderError: neither of the two.
    """
    tools = parse_json(given, "tools that are not JSON") if isinstance(given, str) and given else given
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RenderError("tools that are no list of JSON schemas")
    return without_nulls(tools)


def parse_json(text: str, fault: str) -> object:
    """What a JSON text says.

    Raises:
        RenderError: with the fault, where it is none.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise RenderError(fault) from error


def without_nulls(value: object) -> object:
    """Mappings without the keys that Arrow adds to every row because another row has them."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def iter_strings(value: object) -> Iterator[str]:
    """Every string within lists and mappings, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from iter_strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from iter_strings(item)


def map_strings(value: object, change: Callable[[str], str]) -> object:
    """Lists and mappings with every string changed, keys left as they are."""
    if isinstance(value, dict):
        return {key: map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [map_strings(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
