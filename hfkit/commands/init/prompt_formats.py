"""Prompts that another tool writes without a chat template, such as Alpaca's, as Jinja templates and columns for hfkit.

A user message has the instruction and the input of a row, with a form feed between them that the template splits at.
"""

import json
from dataclasses import dataclass
from string import Formatter

MARK = "\n\f\n"
"""Separates the input of a row from its instruction in a user message; without an input, it is stripped."""
BOS_ADDED = ("<s>", "<bos>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>")
"""Texts of BOS in vocabularies whose tokenizers begin every text with it; others, such as GPT-2's, have it unused."""
TASK = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request."
ALPACA_PREAMBLES = (f"{TASK}, paired with an input that provides further context. {REQUEST}", f"{TASK}. {REQUEST}")
TEMPLATE = """\
{{#- The prompts of {name}: a form feed separates an instruction from its input. -#}}
{{%- if bos_token in {bos} -%}}{{{{- bos_token -}}}}{{%- endif -%}}
{{%- for message in messages -%}}
{{%- if message['role'] == 'system' -%}}
{{%- set system = message['content'] -%}}
{{{{- {system} -}}}}
{{%- elif message['role'] == 'user' -%}}
{{%- set parts = message['content'].split({mark}, 1) + [''] -%}}
{{%- set instruction, input = parts[0], parts[1] -%}}
{{%- if input -%}}
{{{{- {begin_input} + {with_input} -}}}}
{{%- else -%}}
{{{{- {begin} + {without_input} -}}}}
{{%- endif -%}}
{{%- elif message['role'] == 'assistant' -%}}
{{{{- message['content'] + eos_token -}}}}
{{%- endif -%}}
{{%- endfor -%}}
"""


@dataclass(frozen=True)
class PromptFormat:
    """How another tool writes a prompt; texts have `{instruction}`, `{input}` and `{system}` in them.

    Attributes:
        name: of the format, for a comment.
        with_input: prompts of rows with an input.
        without_input: those of other rows.
        system: the system text before a prompt.
        defaults: the system texts of rows without one, for both kinds of prompts.
    """

    name: str
    with_input: str
    without_input: str
    system: str
    defaults: tuple[str, str] = ("", "")

    @property
    def template(self) -> str:
        """The format as a Jinja template."""
        begins = [
            f"({jinja_text(self.system.format(system=text))} if loop.first else '')" if text else "''"
            for text in self.defaults
        ]
        return TEMPLATE.format(
            name=self.name,
            bos=[*BOS_ADDED],
            mark=jinja_text(MARK),
            system=expression(self.system),
            begin_input=begins[0],
            begin=begins[1],
            with_input=expression(self.with_input),
            without_input=expression(self.without_input),
        )


def jinja_text(text: str) -> str:
    """Return a text as Jinja writes it."""
    return json.dumps(text, ensure_ascii=False)


def expression(text: str) -> str:
    """Return a text with names in braces as an expression of Jinja.

    Raises:
        ValueError: another name is in braces, or a brace is open.
    """
    parts = []
    for before, name, form, conversion in Formatter().parse(text):
        parts += [jinja_text(before)] if before else []
        if name is not None and (name not in ("instruction", "input", "system") or form or conversion):
            raise ValueError(f"{{{name}}} is none of {{instruction}}, {{input}} and {{system}}")
        parts += [name] if name else []
    return " + ".join(parts) or "''"


PLAIN_TEXT = PromptFormat("a tool that writes text as it is", "{instruction}", "{instruction}", "{system}")
STYLES = {
    "instruct": (
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        "### Instruction:\n{instruction}\n\n### Response:\n",
        "{system}\n\n",
    ),
    "chat": ("USER: {instruction}\n{input}\nASSISTANT:", "USER: {instruction}\nASSISTANT:", "SYSTEM: {system}\n"),
    "chatml": (
        "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\n{system}<|im_end|>\n",
    ),
}
"""Styles of axolotl's Alpaca prompts -> with an input, without one, the system text."""
RESPONSE_COLUMNS = {"alpaca": "output", "gpteacher": "response"}
"""Types of axolotl with these prompts -> the column of the response; the prompt has `instruction` and `input`."""


def axolotl_format(kind: str | dict) -> tuple[PromptFormat, dict[str, str]] | None:
    """Return the format of a type of axolotl's datasets, and the columns of its rows; None for all other types.

    Raises:
        ValueError: a text of the type cannot be translated.
    """
    if isinstance(kind, dict):
        return user_defined(kind)
    base, _, style = kind.partition(":")
    base = {"alpaca_instruct.load": "alpaca"}.get(base, base)
    if base not in RESPONSE_COLUMNS or (style or "instruct") not in STYLES:
        return None
    columns = {"prompt": f"{{instruction}}{MARK}{{input}}", "response": RESPONSE_COLUMNS[base]}
    return PromptFormat(f"axolotl's type {kind}", *STYLES[style or "instruct"], ALPACA_PREAMBLES), columns


def user_defined(kind: dict) -> tuple[PromptFormat, dict[str, str]]:
    """Return the format that a mapping in `type` defines, and the columns of its rows."""
    prompt, given = kind.get("field_instruction", "instruction"), kind.get("field_input")
    columns = {"prompt": f"{{{prompt}}}{MARK}{{{given}}}" if given else prompt}
    columns["response"] = kind.get("field_output", "output")
    if kind.get("field_system", "system") != "system":
        columns["system"] = kind["field_system"]
    system, text = kind.get("system_format", "{system}"), kind.get("system_prompt", "")
    texts = (kind.get("format", "{instruction} {input} "), kind.get("no_input_format", "{instruction} "), system)
    for one in texts:
        expression(one)
    return PromptFormat("the config's own type", *texts, (text, text)), columns
