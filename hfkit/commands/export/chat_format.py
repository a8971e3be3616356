"""Finds the texts that a chat template writes around the messages of each role, for programs without Jinja.

A template that does more, or whose texts differ between conversations, has no such format.
"""

from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from hfkit.core.errors import HfkitError
from hfkit.data.messages import RenderError
from hfkit.data.rendering import Template, template_variables
from hfkit.data.turn_end import turn_end

SYSTEM_TEXT, USER_TEXTS, REPLY_TEXTS = "hfkit0s", ("hfkit1u", "hfkit2u", "hfkit3u"), ("hfkit1a", "hfkit2a")
"""Texts of messages that no template contains."""
THINKING_VARIABLE = "enable_thinking"
"""The variable that turns thinking on and off in templates."""
OWN_TURN, FIRST_USER, LAST_USER = "a separate turn", "within the first user message", "within the last user message"


@dataclass(frozen=True)
class ChatFormat:
    """The texts that a chat template writes around messages.

    Args:
        bos: the BOS token, if it occurs only at the beginning of a conversation.
        start: the rest of the beginning of a conversation.
        user, assistant, system: the text before and after a message of the role.
        system_at: position of the system text; None if the template does not support one.
        always_system: whether the system turn is written even without a system text.
        default_system: the system text that the template writes into a conversation without one.
        prompt: the generation prompt.
        thinking_prompts: the generation prompts with thinking on and off, if a variable controls it.
    """

    bos: str
    start: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    prompt: str
    system: tuple[str, str] = ("", "")
    system_at: str | None = None
    always_system: bool = False
    default_system: str = ""
    thinking_prompts: tuple[str, str] | None = None

    def render(self, contents: list[str], system: str | None = None) -> str:
        """Return a conversation of alternating user and assistant contents, with a generation prompt."""
        system = self.default_system if system is None else system
        around, users = self.system[0] + system + self.system[1], len(contents) // 2 + 1
        text = self.bos + self.start
        if self.system_at == OWN_TURN and (system or self.always_system):
            text += around
        for index, content in enumerate(contents):
            if index % 2:
                text += self.assistant[0] + content + self.assistant[1]
                continue
            has_system = index == {FIRST_USER: 0, LAST_USER: 2 * (users - 1)}.get(self.system_at or "")
            text += self.user[0] + (around if has_system and system else "") + content + self.user[1]
        return text + self.prompt


def read_chat_format(tokenizer: PreTrainedTokenizerBase, path: str) -> ChatFormat:
    """Return the format of a tokenizer's chat template, checked on conversations of up to three user messages.

    Raises:
        HfkitError: the template has no such format.
    """
    try:
        found = _find_format(tokenizer)
        is_exact = all(
            found.render(contents, system) == _render(tokenizer, contents, system)
            for contents in map(_contents, (1, 2, 3))
            for system in (None, *([SYSTEM_TEXT] if found.system_at else []))
        )
    except (RenderError, ValueError):
        is_exact = False
    if not is_exact:
        raise HfkitError(
            f"the chat template of {path} does more than write text around messages, so a Modelfile cannot express it: "
            "use --format gguf, which includes the chat template for `llama-server --jinja`"
        )
    return _with_thinking(found, tokenizer)


def _find_format(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Return the format that a conversation of two user messages suggests, with and without system text.

    Raises:
        RenderError: the template rejects a conversation.
        ValueError: a message does not occur exactly once.
    """
    contents = _contents(2)
    text = _render(tokenizer, contents)
    bos = opening_bos(tokenizer)
    opening, to_reply, to_user, ending = _split(text.removeprefix(bos), contents)
    try:
        order, pieces = _with_system(tokenizer, contents, bos)
    except (RenderError, ValueError):
        order, pieces = contents, [opening, to_reply, to_user, ending]
    is_own_turn = order[0] == SYSTEM_TEXT and not pieces[0].startswith(opening)
    before_user = _shared_end(tokenizer, to_user, opening, *([pieces[1]] if is_own_turn else []))
    user_end = _render(tokenizer, contents[:1], generation_prompt=False).rpartition(contents[0])[2]
    if not (to_reply.startswith(user_end) and ending.startswith(user_end)):
        user_end = ""
    found = ChatFormat(
        bos=bos,
        start=opening.removesuffix(before_user),
        user=(before_user, user_end),
        assistant=(to_reply.removeprefix(user_end), to_user.removesuffix(before_user)),
        prompt=ending.removeprefix(user_end),
    )
    if SYSTEM_TEXT not in order:
        return found
    if is_own_turn:
        return _with_system_turn(found, pieces[0], pieces[1].removesuffix(before_user))
    index = order.index(SYSTEM_TEXT)
    before = opening if index == 0 else to_user
    return replace(
        found,
        system=(pieces[index].removeprefix(before), pieces[index + 1]),
        system_at=FIRST_USER if index == 0 else LAST_USER,
    )


def opening_bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the BOS token if it begins a conversation, else ""; if it begins other turns too, it is part of these.

    Raises:
        RenderError: the template rejects a conversation.
    """
    text, bos = _render(tokenizer, _contents(2)), tokenizer.bos_token
    return bos if bos and text.startswith(bos) and text.count(bos) == 1 else ""


def _with_system_turn(found: ChatFormat, before: str, after: str) -> ChatFormat:
    """Return a format with a system turn; without system text, a conversation begins with the default.

    Args:
        before: the text before the system text.
        after: the text that ends its turn.
    """
    if found.start and found.start.startswith(before) and found.start.endswith(after):
        default = found.start.removeprefix(before).removesuffix(after)
        options = {"start": "", "default_system": default, "always_system": not default}
        return replace(found, system=(before, after), system_at=OWN_TURN, **options)
    return replace(found, system=(before.removeprefix(found.start), after), system_at=OWN_TURN)


def _with_thinking(found: ChatFormat, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Return a format with both generation prompts if a variable of the template chooses between them."""
    if THINKING_VARIABLE not in template_variables(tokenizer):
        return found
    prompts = []
    for is_on in (True, False):
        begin = replace(found, prompt="").render(_contents(2))
        text = _render(tokenizer, _contents(2), variables={THINKING_VARIABLE: is_on})
        if not text.startswith(begin):
            return found
        prompts.append(text.removeprefix(begin))
    return replace(found, thinking_prompts=(prompts[0], prompts[1]))


def _contents(users: int) -> list[str]:
    """Return the contents of a conversation with this number of user messages, with responses between them."""
    both = [text for pair in zip(USER_TEXTS, (*REPLY_TEXTS, ""), strict=True) for text in pair]
    return both[: 2 * users - 1]


def _render(
    tokenizer: PreTrainedTokenizerBase,
    contents: list[str],
    system: str | None = None,
    generation_prompt: bool = True,
    variables: dict | None = None,
) -> str:
    """Return a conversation as the chat template renders it.

    Raises:
        RenderError: it rejects the conversation.
    """
    messages = [
        {"role": "assistant" if index % 2 else "user", "content": content} for index, content in enumerate(contents)
    ]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    template = Template(tokenizer, variables=variables or {})
    return template.render(messages, generation_prompt=generation_prompt).text


def _with_system(tokenizer: PreTrainedTokenizerBase, contents: list[str], bos: str) -> tuple[list[str], list[str]]:
    """Return the contents of a conversation with system text, in rendered order, and the pieces around them.

    Raises:
        RenderError: the template rejects system text.
        ValueError: the template drops it.
    """
    text = _render(tokenizer, contents, SYSTEM_TEXT)
    order = sorted([SYSTEM_TEXT, *contents], key=text.index)
    return order, _split(text.removeprefix(bos), order)


def _split(text: str, contents: list[str]) -> list[str]:
    """Return the texts before, between and after the contents of messages.

    Raises:
        ValueError: a content does not occur exactly once.
    """
    pieces = []
    for content in contents:
        if text.count(content) != 1:
            raise ValueError(f"{content} occurs {text.count(content)} times")
        before, _, text = text.partition(content)
        pieces.append(before)
    return [*pieces, text]


def _after_turn_end(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the rest of a text that begins with the end of a turn, after that end and white space."""
    end = turn_end(tokenizer)
    token = tokenizer.convert_ids_to_tokens(end.ids[-1])
    return text if end.is_next_role or token not in text else text.partition(token)[2].lstrip()


def _shared_end(tokenizer: PreTrainedTokenizerBase, to_user: str, *others: str) -> str:
    """Return the text before each user message: that after the end of a turn, or else the shared end of all texts."""
    ends = [_after_turn_end(tokenizer, to_user), *(to_user[start:] for start in range(len(to_user) + 1))]
    return next(end for end in ends if all(text.endswith(end) for text in others))
