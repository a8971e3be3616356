"""Conversations to token ids, the one way that SFT, the reward model and PPO all share.

A reply is what follows the generation prompt, up to and including the end-of-text token: the same ids whether they
were rendered from a data set or sampled, so that a reward model scores in PPO what it was trained to score.
What people write stays text: a turn that contains the text of a special token cannot end itself or begin another.
"""

import inspect
import re
from functools import cache

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hfkit.data.messages import Messages, RenderError, as_messages, as_reply, iter_strings, map_strings

# Transformers 5.20 and later can read special tokens in what people write as their characters.
SANITIZES = "sanitize_control_tokens" in inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Messages, tools: list[dict] | None = None
) -> list[int]:
    """Token ids of a prompt, the generation prompt at its end.

    Args:
        tools: JSON schemas of functions, for the template.

    Raises:
        RenderError: messages, but no chat template; the template refuses the turns; or nothing is left to reply to.
    """
    messages = as_messages(prompt)
    if not isinstance(prompt, str) and not tokenizer.chat_template:
        raise RenderError("messages need a chat template")
    if messages and messages[-1]["role"] == "assistant":
        raise RenderError("that ends with the assistant's turn")
    if tokenizer.chat_template:
        return _apply_template(tokenizer, messages, tools, add_generation_prompt=True)
    ids = _tokenize(tokenizer, prompt)
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    reply: str | Messages,
    tools: list[dict] | None = None,
    limit: int | None = None,
) -> tuple[list[int], list[bool]]:
    """Token ids of a prompt with its reply, and which of them the assistant says.

    Every assistant turn counts as said, of the prompt too, with the end-of-text token that closes it. What a template
    writes after the last one (a newline, often) is cut off: no sampled reply has it.

    Args:
        tools: JSON schemas of functions, for the template.
        limit: tokens after which no turn but the last one is marked. Each is rendered with all before it: of a long
            conversation that will be cut this saves the most.

    Raises:
        RenderError: the turns cannot be told apart in the rendered text.
    """
    if not tokenizer.chat_template:
        head = encode_prompt(tokenizer, prompt)
        if not isinstance(reply, str):
            raise RenderError("messages need a chat template")
        said = [*_tokenize(tokenizer, reply, add_special_tokens=False), tokenizer.eos_token_id]
        return head + said, [False] * len(head) + [True] * len(said)
    messages = as_messages(prompt) + as_reply(reply)
    ids = _apply_template(tokenizer, messages, tools)
    mask = [False] * len(ids)
    replies = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    end = 0
    for turn in replies:
        if limit is not None and end >= limit and turn != replies[-1]:
            continue
        start = len(_apply_template(tokenizer, messages[:turn], tools, add_generation_prompt=True))
        rendered = ids if turn == len(messages) - 1 else _apply_template(tokenizer, messages[: turn + 1], tools)
        end = _response_end(tokenizer, rendered, start)
        if ids[:end] != rendered[:end] or start >= end:
            raise RenderError("the chat template rewrites earlier turns")
        mask[start:end] = [True] * (end - start)
    if end == 0:
        raise RenderError("no assistant turn")
    if ids[end - 1] != tokenizer.eos_token_id:
        return [*ids[:end], tokenizer.eos_token_id], [*mask[:end], True]
    return ids[:end], mask[:end]


def encode_replies(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    replies: list[str | Messages],
    tools: list[dict] | None = None,
) -> list[list[int]]:
    """Token ids of a prompt with each of several replies: those of `encode_conversation`, the prompt rendered once.

    Raises:
        RenderError: as `encode_conversation`.
    """
    turns = [as_reply(reply) for reply in replies]
    if not tokenizer.chat_template or any([turn["role"] for turn in reply] != ["assistant"] for reply in turns):
        return [encode_conversation(tokenizer, prompt, reply, tools)[0] for reply in replies]
    head, start = as_messages(prompt), None
    rows = []
    for reply in turns:
        ids = _apply_template(tokenizer, head + reply, tools)
        if ids[-1:] != [tokenizer.eos_token_id]:  # only then it matters where the reply began
            start = start or len(_apply_template(tokenizer, head, tools, add_generation_prompt=True))
            ids = ids[: _response_end(tokenizer, ids, start)]
            if len(ids) <= start:
                raise RenderError("the chat template rewrites earlier turns")
        rows.append(ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id])
    return rows


def _response_end(tokenizer: PreTrainedTokenizerBase, rendered: list[int], start: int) -> int:
    """Where the reply that begins at `start` ends: after its last end-of-text token if it has one."""
    place = len(rendered)
    while place > start and rendered[place - 1] != tokenizer.eos_token_id:
        place -= 1
    return place if place > start else len(rendered)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a plain text, closed by the end-of-text token."""
    ids = tokenizer(text).input_ids
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


MATCHES_NOTHING = r"[^\s\S]"  # a pattern that never matches


@cache
def special_token_pattern(tokenizer: PreTrainedTokenizerBase | None) -> re.Pattern:
    """Finds the texts of a tokenizer's special tokens; None has none."""
    tokens = [] if tokenizer is None else tokenizer.added_tokens_decoder.values()
    texts = [token.content for token in tokens if token.special]
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or MATCHES_NOTHING)


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str, **options) -> list[int]:
    """Token ids of what people wrote where no template renders it: its special tokens are read as characters too."""
    return tokenizer(escape_special_tokens(tokenizer, text), split_special_tokens=True, **options).input_ids


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: list[dict] | None = None, **options
) -> list[int]:
    if not messages:
        return []
    if any(map(special_token_pattern(tokenizer).search, iter_strings([messages, tools]))):
        messages, tools = escape_special_tokens(tokenizer, [messages, tools])
        options |= {"sanitize_control_tokens": True} if SANITIZES else {}
    try:
        return tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False, **options)
    except (TemplateError, KeyError, TypeError) as error:
        raise RenderError(f"the chat template refuses it: {error}") from error


def escape_special_tokens(tokenizer: PreTrainedTokenizerBase, written: object) -> object:
    """Strings, in lists and mappings of any depth, as a model gets to read what people write in them.

    It is what they are. Before Transformers 5.20 a space breaks the text of a special token: `< |im_end|>`.
    """
    if SANITIZES:
        return written
    return map_strings(written, lambda text: special_token_pattern(tokenizer).sub(break_token, text))


def break_token(token: re.Match) -> str:
    """The text of a special token with a space after its first character."""
    return f"{token[0][:1]} {token[0][1:]}"
