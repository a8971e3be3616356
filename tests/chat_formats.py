"""Conversations rendered by plain Transformers."""

from functools import partial

from hfkit.commands.export.chat_format import REPLY_TEXTS, USER_TEXTS

NO_SYSTEM = {"Gemma 2"}
"""Families whose templates reject a system message."""


def messages_of(users: int, system: str | None = None) -> list[dict]:
    """Return a conversation with a number of user messages, and the responses between them."""
    contents = [text for pair in zip(USER_TEXTS, (*REPLY_TEXTS, ""), strict=True) for text in pair][: 2 * users - 1]
    messages = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(contents)]
    return [{"role": "system", "content": system}] * bool(system) + messages


def expected(tokenizer, users: int, system: str | None = None, prompt: str = "") -> str:
    """Return the conversation with a generation prompt; `prompt` is added if the template writes none."""
    messages = messages_of(users, system)
    render = partial(tokenizer.apply_chat_template, messages, tokenize=False)
    text, without = (render(add_generation_prompt=wanted) for wanted in (True, False))
    return text + prompt if text == without else text
