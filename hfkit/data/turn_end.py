"""Finds the tokens that end an assistant's turn under a chat template, and thus a sampled response.

Often this is not the end-of-text token: `<end_of_turn>`, `<|im_end|>`, `<|eot_id|>`, or the marker of the next role.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from hfkit.data.messages import RenderError
from hfkit.data.rendering import Template, special_token_ids, template_kwargs
from hfkit.data.template_source import cached_by_template

ANSWER = "hfkit7"  # a text that no template contains


@dataclass(frozen=True)
class TurnEnd:
    """The end of a turn.

    Args:
        ids: its tokens, without leading white space; the last one ends a sampled response.
        is_next_role: whether it is the marker of the next role, because the template writes no end marker.
    """

    ids: tuple[int, ...]
    is_next_role: bool = False


def turn_end(tokenizer: PreTrainedTokenizerBase, variables: dict | None = None) -> TurnEnd:
    """Return the end of an assistant's turn; without a chat template, the end-of-text token."""
    if not tokenizer.chat_template:
        return TurnEnd((tokenizer.eos_token_id,))
    variables = {**template_kwargs(tokenizer), **(variables or {})}
    return find_turn_end(tokenizer, json.dumps(variables, sort_keys=True, default=str))


@cached_by_template
def find_turn_end(tokenizer: PreTrainedTokenizerBase, variables: str) -> TurnEnd:
    """Return the tokens that the template writes after a response both within a conversation and at its end.

    A token that occurs only at the end of the conversation, such as Phi's end-of-text, does not end a turn.
    """
    last, middle = _after_reply(tokenizer, json.loads(variables))
    shared = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(last, middle, strict=False))]
    if ids := leading_special(tokenizer, shared) or leading_special(tokenizer, last):
        return TurnEnd(tuple(ids))
    if middle and middle[0] in special_token_ids(tokenizer) and middle[0] != tokenizer.bos_token_id:
        return TurnEnd((middle[0],), is_next_role=middle[0] != tokenizer.eos_token_id)
    return TurnEnd((tokenizer.eos_token_id,))


def _after_reply(tokenizer: PreTrainedTokenizerBase, variables: dict) -> list[list[int]]:
    """Return the token ids after a response at the end of a conversation, and after one that a user message follows."""
    template = Template(tokenizer, variables=variables)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ANSWER}]
    found = []
    for conversation in (messages, [*messages, {"role": "user", "content": "Go on"}]):
        try:
            found.append(template.tokenize(template.render(conversation).text.rpartition(ANSWER)[2]))
        except RenderError:
            found.append([])
    return found


def leading_special(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> list[int]:
    """Return the special tokens that ids begin with, after white space, up to the first end-of-text token."""
    found: list[int] = []
    for token in ids:
        if token not in special_token_ids(tokenizer):
            if found or not is_space(tokenizer, token):
                break
            continue
        found.append(token)
        if token == tokenizer.eos_token_id:
            break
    return found


def is_space(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """Return whether a token is white space."""
    return not tokenizer.decode([token]).strip()
