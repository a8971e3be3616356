"""Render conversations with the chat template to token ids, in the one way that SFT, the reward model and PPO share.

A response is what follows the generation prompt, up to and including the end-of-text token. Its ids are the same
whether it comes from a data set or from sampling, so a reward model scores in PPO what it was trained to score.
Text in rows stays text: a message that contains the text of a special token cannot end itself or begin another one.
"""

import inspect
import re
from functools import cache

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hfkit.data.messages import Messages, RenderError, as_messages, as_reply, iter_strings, map_strings

# Transformers 5.20 and later can tokenize the text of special tokens in messages as plain characters.
SANITIZES = "sanitize_control_tokens" in inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
MATCHES_NOTHING = r"[^\s\S]"


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Messages, tools: list[dict] | None = None
) -> list[int]:
    """Return the token ids of a prompt, with the generation prompt at its end.

    Args:
        tools: JSON schemas of functions, for the template.

    Raises:
        RenderError: messages without a chat template, messages that the template rejects, or a last message that is
            the assistant's.
    """
    messages = as_messages(prompt)
    if not isinstance(prompt, str) and not tokenizer.chat_template:
        raise RenderError("messages need a chat template")
    if messages and messages[-1]["role"] == "assistant":
        raise RenderError("with an assistant message at the end of the prompt")
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
    """Return the token ids of a prompt with its reply, and a mask of those that the assistant writes.

    The mask covers every assistant message, also in the prompt, with the end-of-text token that closes it. What the
    template writes after the last one (often a newline) is cut off, because no sampled response has it.

    Args:
        tools: JSON schemas of functions, for the template.
        limit: number of tokens after which only the last message is masked. Each message is rendered together with all
            before it, so this saves most of the time on a long conversation that will be cut.

    Raises:
        RenderError: the messages cannot be located in the rendered text.
    """
    if not tokenizer.chat_template:
        prompt_ids = encode_prompt(tokenizer, prompt)
        if not isinstance(reply, str):
            raise RenderError("messages need a chat template")
        reply_ids = [*_tokenize(tokenizer, reply, add_special_tokens=False), tokenizer.eos_token_id]
        return prompt_ids + reply_ids, [False] * len(prompt_ids) + [True] * len(reply_ids)
    messages = as_messages(prompt) + as_reply(reply)
    ids = _apply_template(tokenizer, messages, tools)
    mask = [False] * len(ids)
    indices = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    end = 0
    for index in indices:
        if limit is not None and end >= limit and index != indices[-1]:
            continue
        start = len(_apply_template(tokenizer, messages[:index], tools, add_generation_prompt=True))
        is_last = index == len(messages) - 1
        rendered = ids if is_last else _apply_template(tokenizer, messages[: index + 1], tools)
        end = _response_end(tokenizer, rendered, start)
        if ids[:end] != rendered[:end] or start >= end:
            raise RenderError("the chat template rewrites earlier messages")
        mask[start:end] = [True] * (end - start)
    if end == 0:
        raise RenderError("no assistant message")
    if ids[end - 1] != tokenizer.eos_token_id:
        return [*ids[:end], tokenizer.eos_token_id], [*mask[:end], True]
    return ids[:end], mask[:end]


def encode_replies(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    replies: list[str | Messages],
    tools: list[dict] | None = None,
) -> list[list[int]]:
    """Return the token ids of a prompt with each of several replies, as `encode_conversation` gives them.

    The start of a reply is only located where the template does not close it with end-of-text.

    Raises:
        RenderError: as `encode_conversation`.
    """
    conversations = [as_reply(reply) for reply in replies]
    has_one_message = all([message["role"] for message in reply] == ["assistant"] for reply in conversations)
    if not tokenizer.chat_template or not has_one_message:
        return [encode_conversation(tokenizer, prompt, reply, tools)[0] for reply in replies]
    messages, start = as_messages(prompt), None
    rows = []
    for reply in conversations:
        ids = _apply_template(tokenizer, messages + reply, tools)
        if ids[-1:] != [tokenizer.eos_token_id]:
            start = start or len(_apply_template(tokenizer, messages, tools, add_generation_prompt=True))
            ids = ids[: _response_end(tokenizer, ids, start)]
            if len(ids) <= start:
                raise RenderError("the chat template rewrites earlier messages")
        rows.append(ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id])
    return rows


def _response_end(tokenizer: PreTrainedTokenizerBase, rendered: list[int], start: int) -> int:
    """Return where the response that begins at `start` ends: after its last end-of-text token if it has one."""
    end = len(rendered)
    while end > start and rendered[end - 1] != tokenizer.eos_token_id:
        end -= 1
    return end if end > start else len(rendered)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a plain text, closed by the end-of-text token."""
    ids = tokenizer(text).input_ids
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


@cache
def special_token_pattern(tokenizer: PreTrainedTokenizerBase | None) -> re.Pattern:
    """Return a pattern of the texts of a tokenizer's special tokens; None has none."""
    tokens = [] if tokenizer is None else tokenizer.added_tokens_decoder.values()
    texts = [token.content for token in tokens if token.special]
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or MATCHES_NOTHING)


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str, **options) -> list[int]:
    """Return the token ids of a text that no template renders, with special tokens in it as plain characters."""
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
        raise RenderError(f"the chat template rejects it: {error}") from error


def escape_special_tokens(tokenizer: PreTrainedTokenizerBase, value: object) -> object:
    """Return strings, in lists and mappings of any depth, as the model reads them.

    They are unchanged where Transformers sanitizes them. Before 5.20, a space breaks the text of a special token:
    `< |im_end|>`.
    """
    if SANITIZES:
        return value
    return map_strings(value, lambda text: special_token_pattern(tokenizer).sub(break_token, text))


def break_token(token: re.Match) -> str:
    """Return the text of a special token with a space after its first character."""
    return f"{token[0][:1]} {token[0][1:]}"
