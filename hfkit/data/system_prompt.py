"""Puts a system prompt into a chat template: the first message of every conversation without a system text.

It is part of the template, so that everything that uses the saved tokenizer renders it: later stages, other libraries.
"""

import json
import re

from transformers import PreTrainedTokenizerBase

from hfkit.core.errors import HfkitError
from hfkit.data.messages import RenderError
from hfkit.data.rendering import Template, reads_parts, special_token_pattern, text_part
from hfkit.data.template_source import change_templates, templates_of

STATEMENT = re.compile(
    r"{#- system_prompt -#}.{0,200}?\[{'role': 'system', 'content': (.*?)}\] \+ messages -%}.{0,20}?{{- '' }}",
    re.DOTALL,
)
ASKED, INSTRUCTED = {"role": "user", "content": "Hi"}, {"role": "system", "content": "hfkit7"}


class SystemPromptError(HfkitError):
    """A chat template cannot write a system prompt."""


def system_statement(prompt: str, as_parts: bool) -> str:
    """Return the statement at the start of the template; Jinja reads JSON strings, since it uses Python's syntax."""
    content = json.dumps(text_part(prompt) if as_parts else prompt, ensure_ascii=False)
    return (
        "{#- system_prompt -#}{%- if not messages | selectattr('role', 'in', ['system', 'developer']) | list -%}"
        f"{{%- set messages = [{{'role': 'system', 'content': {content}}}] + messages -%}}{{%- endif -%}}{{{{- '' }}}}"
    )


def system_prompt_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the system prompt in a tokenizer's chat template, or None."""
    found = next((match for match in map(STATEMENT.search, templates_of(tokenizer)) if match), None)
    content = json.loads(found[1]) if found else None
    return content[0]["text"] if isinstance(content, list) else content


def set_system_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> None:
    """Set or replace the system prompt of a tokenizer's chat templates; "" removes it.

    Raises:
        SystemPromptError: there is no template, or it does not write the prompt verbatim.
    """
    if not tokenizer.chat_template:
        if prompt:
            raise SystemPromptError("a system prompt needs a chat template: set chat_template")
        return
    if found := special_token_pattern(tokenizer).search(prompt):
        raise SystemPromptError(f"the system prompt contains the special token {found[0]}: remove it")
    change_templates(tokenizer, lambda template: STATEMENT.sub("", template, count=1))
    if not prompt:
        return
    given = rendered(tokenizer, [{**INSTRUCTED, "content": prompt}, ASKED]), rendered(tokenizer, [INSTRUCTED, ASKED])
    first = system_statement(prompt, reads_parts(tokenizer))
    change_templates(tokenizer, lambda template: first + template)
    if "".join(prompt.split()) not in "".join(given[0].split()):
        raise SystemPromptError("the chat template omits the text of a system message: set another chat_template")
    if (rendered(tokenizer, [ASKED]), rendered(tokenizer, [INSTRUCTED, ASKED])) != given:
        raise SystemPromptError("the chat template allows no statement before it: write the prompt into the template")


def rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> str:
    """Return messages rendered by the chat template.

    Raises:
        SystemPromptError: the template rejects them.
    """
    try:
        return Template(tokenizer).render(messages, generation_prompt=True).text
    except RenderError as error:
        raise SystemPromptError(f"{error}: set another chat_template, such as gemma for Gemma 2") from error
