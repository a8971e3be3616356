"""A conversation with one model: its messages, its settings, and the part that fits into the model's context."""

import math
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from hfkit.core.errors import HfkitError
from hfkit.data.chat_template import encode_prompt
from hfkit.data.messages import Messages, RenderError


@dataclass
class Settings:
    """What the user can change during a chat.

    Args:
        temperature: of the sampling; 0 is greedy.
        length: most tokens of a response.
        system: system prompt, or None.
    """

    temperature: float = 0.7
    length: int = 256
    system: str | None = None

    def __post_init__(self):
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise HfkitError(f"temperature: {self.temperature} -> expected a number of at least 0 (0 is greedy)")
        if self.length < 1:
            raise HfkitError(f"length: {self.length} -> expected a number of tokens, at least 1")


@dataclass
class Conversation:
    """Alternating messages of user and assistant; the last is the user's until the response is added."""

    messages: Messages = field(default_factory=list)

    def add_question(self, text: str) -> None:
        """Append the user's message."""
        self.messages.append({"role": "user", "content": text})

    def add_reply(self, text: str) -> None:
        """Append the model's response; an empty one removes the question, since roles must alternate in templates."""
        if text:
            self.messages.append({"role": "assistant", "content": text})
        else:
            self.messages.pop()

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, settings: Settings, context: int | None
    ) -> tuple[list[int], int, int]:
        """Return the prompt's token ids, the most tokens of the response, and the number of messages left out.

        The oldest messages are left out if they exceed the context, in tokens. Without a chat template the prompt is
        the text of the last message.

        Raises:
            HfkitError: the last message is too long, or the template rejects the messages.
        """
        messages = self.messages if tokenizer.chat_template else self.messages[-1:]
        ids = encode_messages(tokenizer, messages, settings.system)
        while context is not None and len(ids) + settings.length > context and len(messages) > 2:
            messages = messages[2:]
            ids = encode_messages(tokenizer, messages, settings.system)
        length = settings.length if context is None else min(settings.length, context - len(ids))
        if length < 1:
            size = f"the message has {len(ids)} tokens, but the model's context is {context}"
            raise HfkitError(f"{size}: write a shorter one")
        return ids, length, len(self.messages) - len(messages) if tokenizer.chat_template else 0


def encode_messages(tokenizer: PreTrainedTokenizerBase, messages: Messages, system: str | None) -> list[int]:
    """Return the token ids of messages below a system prompt; without a chat template, those of the last message.

    Raises:
        HfkitError: the template rejects the messages; or without one, there is a system prompt, or no text.
    """
    if not tokenizer.chat_template:
        if system:
            raise HfkitError("the model has no chat template, so it cannot use a system prompt: remove it with /system")
        if ids := encode_prompt(tokenizer, messages[-1]["content"]):
            return ids
        raise HfkitError("the message is empty, and no chat template begins a response to it: write a text")
    head = [{"role": "system", "content": system}] if system else []
    try:
        return encode_prompt(tokenizer, head + messages)
    except RenderError as error:
        hint = "/reset clears the conversation, /system without text removes the system prompt"
        raise HfkitError(f"{error}; {hint}") from error
