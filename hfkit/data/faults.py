"""Finds faults of rows that can still be trained on. They are counted, reported and recorded.

A row that cannot be trained on is dropped instead. An encoder joins the names of a row's faults in the column `faults`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import cache
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from hfkit.data.messages import Messages, as_messages, as_reply, is_trained, iter_strings, squash
from hfkit.data.rendering import MATCHES_NOTHING, special_token_ids, special_token_pattern


class Fault(Enum):
    """A fault of a row; the value is its description in reports."""

    # Faults of text and of the order of messages.
    SPECIAL = "with the text of a special token, read as plain text"
    CONTROL = "with the text of a special token, read as that token"
    REPLACED = "with U+FFFD, where characters were lost"
    REPEATED = "with two messages of one role in a row"
    NO_QUESTION = "with a response before the first question"
    LEFT_OUT = "with a message that the chat template omits"
    # Faults of token ids.
    UNKNOWN = "with unknown tokens"
    NO_BOS = "without the begin-of-text token that its tokenizer adds"
    TWO_BOS = "with two begin-of-text tokens"
    NO_EOS = "without end-of-text at its end"
    # Faults of a comparison.
    EMPTY_CHOSEN = "whose chosen response is empty"
    REPLY_TOO_LONG = "with a response longer than max_length, which is left out"
    OTHER_QUESTION = "whose responses begin with different questions"
    CHANGED_LATER = "with an earlier turn of a response that the chat template changes later, so it is not trained"


def join_faults(found: Iterable[Fault]) -> str:
    """Return faults in the format of the column `faults`, each once."""
    return " ".join(dict.fromkeys(fault.name for fault in found))


def split_faults(joined: str) -> list[Fault]:
    """Return the faults of one row from the column `faults`."""
    return [Fault[name] for name in joined.split()]


def count_faults(column: Iterable[str]) -> dict[Fault, int]:
    """Return the number of rows with each fault, the most frequent first."""
    return dict(Counter(fault for joined in column for fault in split_faults(joined)).most_common())


def of_messages(messages: Messages) -> list[Fault]:
    """Return the faults of the order of messages.

    `REPEATED` if two consecutive messages have the same role, ignoring a system message between them; `NO_QUESTION` if
    the assistant's message comes first.
    """
    roles = [message["role"] for message in messages]
    without_system = [role for role in roles if role != "system"]
    repeated = any(one == other != "tool" for order in (roles, without_system) for one, other in pairwise(order))
    faults = {Fault.REPEATED: repeated, Fault.NO_QUESTION: without_system[:1] == ["assistant"]}
    return [fault for fault, is_found in faults.items() if is_found]


def of_replies(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    replies: list[str | Messages],
    ids: list[int],
    spans: Sequence[list[int]],
) -> list[Fault]:
    """Return the faults of a prompt and of its compared responses.

    Args:
        ids: token ids of the prompt with one of the responses.
        spans: of each response, see `replies_and_spans`.
    """
    messages = as_messages(prompt)
    trained = [sum(map(is_trained, as_reply(reply)[:-1])) + 1 for reply in replies]
    has_changed = any(len(found) // 2 < count for found, count in zip(spans, trained, strict=True))
    found = [Fault.CHANGED_LATER] * has_changed
    found += [Fault.OTHER_QUESTION for reply in replies if as_reply(reply)[0]["role"] != "assistant"]
    found += [fault for reply in replies for fault in of_messages(messages + as_reply(reply))]
    found += of_texts(tokenizer, [prompt, replies])
    return found + of_rendered(tokenizer, messages, ids) if tokenizer.chat_template else found


def of_rendered(tokenizer: PreTrainedTokenizerBase, messages: Messages, ids: list[int]) -> list[Fault]:
    """Return `LEFT_OUT` if the token ids lack the text of a message, such as one with a role that the template ignores.

    Responses are already compared when they are encoded, and templates escape the results of tools. A template may
    write text between the parts of a message that form feeds separate.
    """
    texts = [message.get("content") or "" for message in messages if message["role"] not in ("assistant", "tool")]
    rendered = squash(tokenizer.decode(ids)) if any(texts) else ""
    parts = [part for text in texts for part in text.split("\f") if part]
    return [Fault.LEFT_OUT] if any(squash(_round_trip(tokenizer, part)) not in rendered for part in parts) else []


def _round_trip(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text decoded from its own token ids."""
    return tokenizer.decode(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def of_texts(tokenizer: PreTrainedTokenizerBase | None, contents: object, *, plain: bool = False) -> list[Fault]:
    """Return the faults of text.

    Args:
        contents: strings, in lists and mappings of any depth.
        plain: whether the text is tokenized verbatim, so that the text of a special token becomes that token.
    """
    texts = [*iter_strings(contents)]
    faults = {
        Fault.CONTROL if plain else Fault.SPECIAL: any(map(special_token_pattern(tokenizer).search, texts)),
        Fault.REPLACED: any("\ufffd" in text for text in texts),
    }
    return [fault for fault, is_found in faults.items() if is_found]


def of_column(texts: pa.Array | pa.ChunkedArray, tokenizer: PreTrainedTokenizerBase | None = None) -> dict[Fault, int]:
    """Return the number of texts with each fault that can be found without tokenizing them."""
    masks = {Fault.REPLACED: pc.match_substring(texts, "\ufffd")}
    if tokenizer is not None and special_token_pattern(tokenizer).pattern != MATCHES_NOTHING:
        masks[Fault.CONTROL] = pc.match_substring_regex(texts, special_token_pattern(tokenizer).pattern)
    return {fault: count for fault, mask in masks.items() if (count := pc.sum(mask).as_py())}


def of_ids(tokenizer: PreTrainedTokenizerBase, ids: list[int], *, ends: bool = True) -> list[Fault]:
    """Return the faults of the token ids of a row before cutting.

    Args:
        ends: whether the row should end with end-of-text or the end of a turn; a prompt does not.
    """
    bos, eos, unknown = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id
    faults = {
        Fault.UNKNOWN: unknown not in (None, bos, eos, tokenizer.pad_token_id) and unknown in ids,
        Fault.TWO_BOS: bos is not None and bos != eos and ids[:2] == [bos, bos],
        Fault.NO_BOS: _adds_bos(tokenizer) and ids[:1] != [bos],
        Fault.NO_EOS: ends and not special_token_ids(tokenizer) & {*ids[-1:]},
    }
    return [fault for fault, is_found in faults.items() if is_found]


@cache
def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer adds the begin-of-text token to a plain text."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
