"""Finds tool calls in a response, in the form in which the model's chat template writes them."""

import json
from dataclasses import dataclass
from uuid import uuid4

from transformers import PreTrainedTokenizerBase

from hfkit.core.limits import load_json
from hfkit.data.chat_template import encode_prompt
from hfkit.data.conversions import common_length
from hfkit.data.messages import Messages, RenderError
from hfkit.data.rendering import Template
from hfkit.data.template_source import cached_by_template

PROBE_NAME = "hfkit7"  # a text that no template contains
PROBE_ARGUMENTS = {"text": "hfkit8"}
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": PROBE_NAME,
        "description": "Hi",
        "parameters": {"type": "object", "properties": {"text": {"type": "string", "description": "Hi"}}},
    },
}
MOST_CALLS = 64
ARGUMENT_NAMES = ("arguments", "parameters")


@dataclass(frozen=True)
class CallFormat:
    """The texts around the JSON of a tool call.

    Args:
        before: the text before it; "" if the response is the JSON alone.
        after: the text after it.
        is_list: whether the JSON is a list of calls.
    """

    before: str
    after: str
    is_list: bool


@cached_by_template
def call_format(tokenizer: PreTrainedTokenizerBase) -> CallFormat | None:
    """Return how a chat template writes a tool call; None if not as JSON with a name and arguments."""
    question = {"role": "user", "content": "Hi"}
    call = {"type": "function", "id": "call00000", "function": {"name": PROBE_NAME, "arguments": PROBE_ARGUMENTS}}
    answers = ({"role": "assistant", "content": PROBE_NAME}, {"role": "assistant", "content": "", "tool_calls": [call]})
    probe = Template(tokenizer, [PROBE_TOOL])
    try:
        plain, text = (probe.render([question, answer]).text for answer in answers)
    except RenderError:
        return None
    header, _, ending = plain.rpartition(PROBE_NAME)
    text = text[common_length(header, text) :].removesuffix(ending)
    at = text.rfind("{", 0, text.find(PROBE_NAME))
    try:
        value, end = json.JSONDecoder().raw_decode(text, at) if at >= 0 else (None, 0)
    except ValueError:
        return None
    if read_call(value) is None:
        return None
    before, after = text[:at].strip(), text[end:].strip()
    is_list = before.endswith("[") and after.startswith("]")
    before, after = (before[:-1], after[1:]) if is_list else (before, after)
    return CallFormat(before.strip(), after.strip(), is_list)


def read_call(value: object) -> tuple[str, dict] | None:
    """Return name and arguments of a tool call as models write it; None if it is something else."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = next((value[name] for name in ARGUMENT_NAMES if name in value), None)
    return (value["name"], arguments) if isinstance(arguments, dict) else None


def find_calls(text: str, form: CallFormat, names: set[str]) -> tuple[str, list[dict]]:
    """Return the text of a response without its tool calls, and these as in OpenAI's messages.

    A call of a tool that was not given, or of invalid JSON, stays text.

    Args:
        text: with special tokens.
        names: of the tools.
    """
    calls: list[dict] = []
    rest, at = "", 0
    while len(calls) < MOST_CALLS:
        start = text.find(form.before, at) if form.before else at + len(text[at:]) - len(text[at:].lstrip())
        found = read_calls_at(text, start + len(form.before), form, names) if start >= 0 else None
        if found is None:
            break
        values, end = found
        rest += text[at:start]
        calls += [as_openai(*value) for value in values]
        after = text[end:].lstrip()
        at = len(text) - len(after.removeprefix(form.after) if form.after else after)
    return (rest + text[at:]).strip(), calls


def read_calls_at(text: str, at: int, form: CallFormat, names: set[str]) -> tuple[list[tuple[str, dict]], int] | None:
    """Return the calls whose JSON begins at an index, and the index after it; None if there is none."""
    at += len(text[at:]) - len(text[at:].lstrip())
    try:
        _, end = json.JSONDecoder().raw_decode(text, at)
        value = load_json(text[at:end])
    except (ValueError, RecursionError):
        return None
    calls = [read_call(one) for one in (value if form.is_list and isinstance(value, list) else [value])]
    if not calls or any(call is None or call[0] not in names for call in calls):
        return None
    return [call for call in calls if call], end


def as_openai(name: str, arguments: dict) -> dict:
    """Return a tool call as in OpenAI's messages: the arguments are JSON."""
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": function}


def supports_tools(tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: list[dict]) -> bool:
    """Return whether the chat template writes the tools into the prompt.

    Raises:
        RenderError: it rejects the messages.
    """
    return encode_prompt(tokenizer, messages, tools) != encode_prompt(tokenizer, messages)
