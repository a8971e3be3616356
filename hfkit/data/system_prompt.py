"""Puts a system prompt into a chat template: a first message of every conversation that has no system text.

It stands in the template, so that whatever renders with the saved tokenizer, later stages and other libraries, has it.
"""

import json
import re

from transformers import PreTrainedTokenizerBase

from hfkit.core.errors import HfkitError
from hfkit.data.messages import RenderError
from hfkit.data.rendering import Template, reads_parts, special_token_pattern, text_part

STATEMENT = re.compile(
    r"{#- system_prompt -#}.{0,200}?\[{'role': 'system', 'content': (.*?)}\] \+ messages -%}.{0,20}?{{- '' }}",
    re.DOTALL,
)
ASKED, INSTRUCTED = {"role": "user", "content": "Hi"}, {"role": "system", "content": "hfkit7"}


class SystemPromptError(HfkitError):
    """A system prompt that a chat template cannot write."""


def system_statement(prompt: str, as_parts: bool) -> str:
    """Return the statement that a template begins with; Jinja reads texts as Python does, and JSON's are such texts."""
    content = json.dumps(text_part(prompt) if as_parts else prompt, ensure_ascii=False)
    return (
        "{#- system_prompt -#}{%- if not messages | selectattr('role', 'in', ['system', 'developer']) | list -%}"
        f"{{%- set messages = [{{'role': 'system', 'content': {content}}}] + messages -%}}{{%- endif -%}}{{{{- '' }}}}"
    )


def system_prompt_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the system prompt in a tokenizer's chat template, or None."""
    own = tokenizer.chat_template
    templates = [*own.values()] if isinstance(own, dict) else [own or ""]
    found = next((match for match in map(STATEMENT.search, templates) if match), None)
    content = json.loads(found[1]) if found else None
    return content[0]["text"] if isinstance(content, list) else content


def set_system_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> None:
    """Set the system prompt of a tokenizer's chat templates in place of the one they have; "" removes it.

    Raises:
        SystemPromptError: there is no template, or it does not write the prompt as it is.
    """
    own = tokenizer.chat_template
    if not own:
        if prompt:
            raise SystemPromptError("a system prompt needs a chat template: set chat_template")
        return
    if found := special_token_pattern(tokenizer).search(prompt):
        raise SystemPromptError(f"the system prompt holds the special token {found[0]}, which would not be text")
    templates = own if isinstance(own, dict) else {"": own}
    plain = {name: STATEMENT.sub("", template, count=1) for name, template in templates.items()}
    tokenizer.chat_template = plain if isinstance(own, dict) else plain[""]
    if not prompt:
        return
    given = rendered(tokenizer, [{**INSTRUCTED, "content": prompt}, ASKED]), rendered(tokenizer, [INSTRUCTED, ASKED])
    first = system_statement(prompt, reads_parts(tokenizer, repr(tokenizer.chat_template)))
    templates = {name: first + template for name, template in plain.items()}
    tokenizer.chat_template = templates if isinstance(own, dict) else templates[""]
    if "".join(prompt.split()) not in "".join(given[0].split()):
        raise SystemPromptError("the chat template leaves out what a system message says: set another chat_template")
    if (rendered(tokenizer, [ASKED]), rendered(tokenizer, [INSTRUCTED, ASKED])) != given:
        raise SystemPromptError("the chat template takes no statement before it: put the prompt into the template")


def rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> str:
    """Return messages as the chat template writes them.

    Raises:
        SystemPromptError: it rejects them.
    """
    try:
        return Template(tokenizer).render(messages, generation_prompt=True).text
    except RenderError as error:
        raise SystemPromptError(f"{error}: set another chat_template, such as gemma for Gemma 2") from error
