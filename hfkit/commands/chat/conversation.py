"""A conversation with one model: its turns, its settings, and how much of it fits the model's context."""

import math
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from hfkit.core.errors import HfkitError
from hfkit.data.chat_template import Messages, RenderError, encode_prompt


@dataclass
class Settings:
    """What can be changed on the way.

    Args:
        temperature: 0 takes the likeliest token.
        length: most tokens of a reply.
        system: system prompt, or None.
    """

    temperature: float = 0.7
    length: int = 256
    system: str | None = None

    def __post_init__(self):
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise HfkitError(f"temperature: {self.temperature} -> a number from 0 on; 0 takes the likeliest token")
        if self.length < 1:
            raise HfkitError(f"length: {self.length} -> a number of tokens, 1 or more")


@dataclass
class Conversation:
    """Turns of user and assistant, the last one the user's while a reply is awaited."""

    turns: Messages = field(default_factory=list)

    def ask(self, message: str) -> None:
        """The user's turn."""
        self.turns.append({"role": "user", "content": message})

    def answer(self, reply: str) -> None:
        """The model's turn; an empty one takes the question back: templates want the two by turns."""
        if reply:
            self.turns.append({"role": "assistant", "content": reply})
        else:
            self.turns.pop()

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, settings: Settings, context: int | None
    ) -> tuple[list[int], int, int]:
        """Token ids to reply to, at most how many tokens the reply may have, and how many turns were left out.

        The oldest turns go where the context, in tokens, is too short. A tokenizer without a chat template gets the
        last message as it is, to go on from.

        Raises:
            HfkitError: the last message is too long, or the template refuses the turns.
        """
        turns = self.turns if tokenizer.chat_template else self.turns[-1:]
        ids = self._render(tokenizer, turns, settings.system)
        while context is not None and len(ids) + settings.length > context and len(turns) > 2:
            turns = turns[2:]
            ids = self._render(tokenizer, turns, settings.system)
        length = settings.length if context is None else min(settings.length, context - len(ids))
        if length < 1:
            raise HfkitError(
                f"the message has {len(ids)} tokens, and the model's context is {context}: write a shorter one"
            )
        return ids, length, len(self.turns) - len(turns) if tokenizer.chat_template else 0

    def _render(self, tokenizer: PreTrainedTokenizerBase, turns: Messages, system: str | None) -> list[int]:
        if not tokenizer.chat_template:
            if system:
                raise HfkitError("the model has no chat template, so it takes no system prompt: /system takes it away")
            return encode_prompt(tokenizer, turns[-1]["content"])
        head = [{"role": "system", "content": system}] if system else []
        try:
            return encode_prompt(tokenizer, head + turns)
        except RenderError as error:
            raise HfkitError(
                f"{error}; /reset begins anew, /system without a text takes the system prompt away"
            ) from error
