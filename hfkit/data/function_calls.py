"""Converts function calls in separate turns, as in ShareGPT's format, to `tool_calls` of messages."""

import json

from datasets import LargeList, List, Value

from hfkit.core.limits import load_json

TOOL_CALLS = List({"type": Value("string"), "function": {"name": Value("string"), "arguments": Value("string")}})
CALL_ROLE, RESULT_ROLES = "function_call", ("observation", "function_response", "function")
"""The roles of function calls and of results in ShareGPT's format; the last one is also OpenAI's older role."""
TURN_COLUMNS = ("messages", "prompt", "chosen", "rejected", "response", "completion")


def function_calls(row: dict) -> dict:
    """Return the columns of turns with `tool_calls` instead of function_call, and the role tool for results."""
    return {name: convert_calls(row[name]) for name in TURN_COLUMNS if isinstance(row.get(name), (list, dict))}


def convert_calls(turns: list | dict) -> list | dict:
    """Convert turns, or one turn, of {from, value} or {role, content}, as in `function_calls`."""
    if isinstance(turns, list):
        return [*map(convert_calls, turns)]
    if not isinstance(turns, dict):
        return turns
    role_key, text_key = ("from", "value") if turns.get("from") else ("role", "content")
    role = turns.get(role_key)
    if role == CALL_ROLE:
        return turns | {role_key: "assistant", text_key: "", "tool_calls": parse_calls(turns.get(text_key))}
    call = turns.get("function_call")
    if isinstance(call, dict) and call.get("name"):
        return turns | {"content": turns.get("content") or "", "tool_calls": parse_calls(json.dumps(call))}
    return turns | {role_key: "tool"} if role in RESULT_ROLES else turns


def parse_calls(text: object) -> list[dict]:
    """Return the tool calls in a JSON text: one call {name, arguments}, or a list of calls.

    For any other text, return a call whose arguments are not JSON, so that every stage drops the row.
    """
    try:
        calls = load_json(text)
        calls = calls if isinstance(calls, list) else [calls]
        found = [(call["name"], call["arguments"]) for call in calls]
    except (ValueError, TypeError, KeyError):
        found = [("", "")]
    texts = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) for name, value in found
    ]
    return [{"type": "function", "function": {"name": name, "arguments": value}} for name, value in texts]


def with_tool_calls(kind):
    """Return the type of turns that may have `tool_calls`."""
    if isinstance(kind, dict):
        return {**kind, "tool_calls": TOOL_CALLS}
    return List(with_tool_calls(kind.feature)) if isinstance(kind, (List, LargeList)) else kind
