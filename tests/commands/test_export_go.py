"""The template of a Modelfile, run by Go itself over values as Ollama gives them. Needs the `go` command."""

import json
import os
import shutil
import subprocess

import pytest
from chat_formats import NO_SYSTEM, expected, messages_of
from template_families import FAMILIES

from hfkit.commands.export.chat_format import SYSTEM_TEXT, read_chat_format
from hfkit.commands.export.go_template import go_template

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("go") is None, reason="no go on the PATH")]
PROGRAM = """package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Message struct{ Role, Content, Thinking string }

type Case struct {
	Template string
	System   string
	Messages []*Message
	Think    *bool
}

func main() {
	var cases []Case
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	var texts []string
	for _, one := range cases {
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(one.Template))
		var text strings.Builder
		values := map[string]any{"System": one.System, "Messages": one.Messages, "Response": ""}
		values["IsThinkSet"] = one.Think != nil
		values["Think"] = one.Think != nil && *one.Think
		if err := parsed.Execute(&text, values); err != nil {
			panic(err)
		}
		texts = append(texts, text.String())
	}
	json.NewEncoder(os.Stdout).Encode(texts)
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """program(cases) -> the texts that Go makes of them."""
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text(PROGRAM)
    options = {"cwd": folder, "check": True, "capture_output": True}
    subprocess.run(["go", "build", "-o", "render", "main.go"], env={**os.environ, "GOCACHE": str(folder)}, **options)

    def run(cases: list[dict]) -> list[str]:
        done = subprocess.run([folder / "render"], input=json.dumps(cases).encode(), **options)
        return json.loads(done.stdout)

    return run


def case(tokenizer, messages: list[dict], **values) -> dict:
    """What Ollama gives a template: the system text, and all messages."""
    template = go_template(read_chat_format(tokenizer, "x"), adds_bos=False)
    system = "".join(message["content"] for message in messages if message["role"] == "system")
    return {"Template": template, "System": system, "Messages": messages, **values}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_template_of_a_modelfile_renders_as_the_chat_template(program, tokenizer_for, name):
    tokenizer = tokenizer_for(name)
    found = read_chat_format(tokenizer, name)
    default = found.default_system or None  # SYSTEM in the Modelfile
    conversations = [(users, default) for users in (1, 2, 3)]
    conversations += [(users, SYSTEM_TEXT) for users in (1, 2, 3) if name not in NO_SYSTEM]
    made = program([case(tokenizer, messages_of(*conversation)) for conversation in conversations])
    for (users, system), text in zip(conversations, made, strict=True):
        assert text == expected(tokenizer, users, system if system == SYSTEM_TEXT else None, found.prompt)


@pytest.mark.parametrize("think", [True, False, None])
def test_thinking_is_turned_on_and_off(program, tokenizer_for, think):
    tokenizer = tokenizer_for("Qwen 3")
    options = {} if think is None else {"enable_thinking": think}
    wanted = tokenizer.apply_chat_template(messages_of(2), tokenize=False, add_generation_prompt=True, **options)
    assert program([case(tokenizer, messages_of(2), Think=think)]) == [wanted]


def test_a_reply_can_be_completed(program, tokenizer_for):
    tokenizer = tokenizer_for("ChatML")
    begun = [*messages_of(1), {"role": "assistant", "content": "It is"}]
    text = tokenizer.apply_chat_template(begun, tokenize=False, continue_final_message=True)
    assert program([case(tokenizer, begun)]) == [text]


def test_braces_of_a_template_are_texts(program, with_template):
    template = "{% for m in messages %}{{ '{{ ' + m.role + ' }}' + m.content }}{% endfor %}{{ '{{ a }}' }}"
    tokenizer = with_template(template)
    assert program([case(tokenizer, messages_of(1))]) == ["{{ user }}hfkit1u{{ a }}"]
