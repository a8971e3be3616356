"""How `hfkit serve` reads requests, ends the text of a response, and finds the tool calls in it."""

import pytest
from serve_process import ASKED, TOOLS

from hfkit.commands.chat.response_text import ResponseText
from hfkit.commands.serve.backends import Generated
from hfkit.commands.serve.jobs import Job, Jobs, Started
from hfkit.commands.serve.models import ServedModel
from hfkit.commands.serve.requests import Request, read_chat, read_completion
from hfkit.commands.serve.tool_calls import call_format, find_calls
from hfkit.data.built_in_templates import read_built_in


@pytest.mark.parametrize(
    ("pieces", "stop_texts", "expected"),
    [
        (["  Hi", " there", " \n"], (), "Hi there"),
        (["Hi the", "re, you"], ("there",), "Hi"),
        (["a<", "b<", "/s>c"], ("</s>",), "a<b"),
        (["a<", "/"], ("</s>",), "a</"),
        (["aab", "aac"], ("aaac", "aac"), "aab"),
        (["xEND", "yEND"], ("END",), "x"),
        (["\n\nHi"], ("\n\n",), ""),
    ],
)
def test_the_text_of_a_response_ends_at_a_stop_text(pieces, stop_texts, expected):
    written = []
    text = ResponseText(stop_texts, True, written.append)
    for piece in pieces:
        text.add(piece)
    text.end()
    assert "".join(written) == text.text == expected


def test_requests_are_read():
    chat = read_chat({"messages": ASKED, "max_completion_tokens": 3, "max_tokens": 9, "stop": "x"}, "Be kind.")
    assert (chat.longest, chat.stop, chat.temperature, chat.prompt[0]["content"]) == (
        3,
        ["x"],
        1.0,
        "Be kind.",
    )
    assert read_chat({"messages": ASKED, "temperature": 1e-30}).temperature == 0  # logits would overflow
    own = [{"role": "system", "content": "Be rude."}, *ASKED]
    assert read_chat({"messages": own}, "Be kind.").prompt == own
    assert read_completion({"prompt": [[1, 2]]}).prompt == [1, 2]


def test_what_hfkit_makes_of_a_request_is_not_the_clients():
    own = {"prompt": "x", "is_chat": False, "variables": {"a": 1}, "tools": []}
    chat = read_chat({"messages": ASKED, **own})
    assert (chat.prompt, chat.is_chat, chat.variables, chat.tools) == (ASKED, True, {}, None)
    text = read_completion({**own, "is_chat": True, "tools": [{}], "max_completion_tokens": 3})
    assert (text.prompt, text.is_chat, text.variables, text.tools, text.longest) == ("x", False, {}, None, None)


CALL = '{"name": "weather", "arguments": {"city": "Oslo"}}'


@pytest.mark.parametrize(
    ("text", "content", "count"),
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", "", 1),
        (f"One moment.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>", "One moment.", 2),
        ("No call.", "No call.", 0),
        ('<tool_call>\n{"name": "weather", "arg', '<tool_call>\n{"name": "weather", "arg', 0),
        ('<tool_call>\n{"name": "rm", "arguments": {}}', '<tool_call>\n{"name": "rm", "arguments": {}}', 0),
        (f"<tool_call>{CALL.replace('{', '[', 1)}", f"<tool_call>{CALL.replace('{', '[', 1)}", 0),
    ],
)
def test_tool_calls_are_found_in_a_response(with_template, text, content, count):
    tokenizer = with_template(read_built_in("qwen3"))
    found, calls = find_calls(text, call_format(tokenizer), {"weather"})
    assert (found, len(calls)) == (content, count)
    for call in calls:
        assert call["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'} and call["type"] == "function"


class Caller:
    """A backend whose model answers with a text and a tool call."""

    name, most_at_once = "caller", 1

    def generate(self, work):
        raw = f"One moment.\n<tool_call>\n{CALL}\n</tool_call>"
        for piece in (raw[:20], raw[20:]):
            work.write(piece)
        return Generated(9, True, raw)


def test_a_response_with_a_tool_call_ends_with_it(with_template):
    model, events = ServedModel("m", with_template(read_built_in("qwen3")), 2048, [0]), []
    for tools in (TOOLS, None):
        Jobs(Caller(), 10).start(Job(model, Request(model="m", prompt=ASKED, tools=tools), events.append), None)
    started, text, finished, *others = events
    assert (type(started), text, finished.text) == (Started, "One moment.", "One moment.")
    assert finished.reason == "tool_calls" and finished.tool_calls[0]["function"]["name"] == "weather"
    assert others[-1].reason == "stop" and CALL in others[-1].text and not others[-1].tool_calls


MISTRAL = """
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{ tools | tojson if tools else '' }}[INST]{{ message.content }}
{%- elif message.tool_calls -%}[TOOL_CALLS][
{%- for call in message.tool_calls -%}
{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
{%- endfor -%}]{{ eos_token }}
{%- else -%}{{ message.content + eos_token }}
{%- endif -%}
{%- endfor -%}"""
BARE = """
{%- for message in messages -%}
<|{{ message.role }}|>
{%- for call in message.tool_calls -%}
{{ {'name': call.function.name, 'parameters': call.function.arguments} | tojson }}
{%- endfor -%}
{{ message.content + eos_token }}
{%- endfor -%}
{{ '<|assistant|>' if add_generation_prompt else '' }}"""


@pytest.mark.parametrize(
    ("template", "text"),
    [(MISTRAL, f"[TOOL_CALLS][{CALL}, {CALL}]"), (BARE, CALL.replace("arguments", "parameters"))],
)
def test_tool_calls_in_other_forms_are_found(with_template, template, text):
    tokenizer = with_template(template)
    content, calls = find_calls(text, call_format(tokenizer), {"weather"})
    assert content == "" and [call["function"]["name"] for call in calls] == ["weather"] * text.count('"name"')
    assert find_calls("Hello {you}.", call_format(tokenizer), {"weather"}) == ("Hello {you}.", [])


def test_a_template_without_tools_has_no_form_of_calls(tokenizer):
    assert call_format(tokenizer) is None
