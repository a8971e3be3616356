"""Faults of rows that can still be trained on. They are counted, reported and recorded.

A row that cannot be trained on is dropped instead. An encoder joins the faults of a row with `JOINT` in the column
`faults`.
"""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import groupby, pairwise

import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from hfkit.data.chat_template import MATCHES_NOTHING, escape_special_tokens, special_token_pattern
from hfkit.data.messages import Messages, as_messages, as_reply, iter_strings

JOINT = "; "
# Faults of text and of the order of messages.
SPECIAL = "with the text of a special token, read as plain text"
CONTROL = "with the text of a special token, read as that token"
REPLACED = "with U+FFFD, where characters were lost"
REPEATED = "with two messages of one role in a row"
# Faults of token ids.
UNKNOWN = "with unknown tokens"
NO_BOS = "without the begin-of-text token that its tokenizer adds"
TWO_BOS = "with two begin-of-text tokens"
NO_EOS = "without end-of-text at its end"
MASK = "whose trained tokens are not its replies"
# A fault of a comparison.
EMPTY_CHOSEN = "whose chosen reply is empty"


def join_faults(found: Iterable[str]) -> str:
    """Return faults as the column `faults` holds them, each once."""
    return JOINT.join(dict.fromkeys(found))


def count_faults(column: Iterable[str]) -> dict[str, int]:
    """Return the number of rows with each fault, the most frequent first."""
    return dict(Counter(fault for faults in column if faults for fault in faults.split(JOINT)).most_common())


def of_messages(messages: Messages) -> list[str]:
    """Return `REPEATED` if two messages of one role follow each other; a system message between them does not count."""
    roles = [message["role"] for message in messages]
    without_system = [role for role in roles if role != "system"]
    repeated = any(one == other != "tool" for order in (roles, without_system) for one, other in pairwise(order))
    return [REPEATED] if repeated else []


def of_replies(tokenizer: PreTrainedTokenizerBase, prompt: str | Messages, replies: list[str | Messages]) -> list[str]:
    """Return the faults of a prompt and of the replies that are compared."""
    messages = as_messages(prompt)
    found = [fault for reply in replies for fault in of_messages(messages + as_reply(reply))]
    return found + of_texts(tokenizer, [prompt, replies])


def of_texts(tokenizer: PreTrainedTokenizerBase | None, contents: object, *, plain: bool = False) -> list[str]:
    """Return the faults of text.

    Args:
        contents: strings, in lists and mappings of any depth.
        plain: whether the text is tokenized as it is, so that the text of a special token becomes that token.
    """
    texts = [*iter_strings(contents)]
    faults = {
        CONTROL if plain else SPECIAL: any(map(special_token_pattern(tokenizer).search, texts)),
        REPLACED: any("\ufffd" in text for text in texts),
    }
    return [fault for fault, is_found in faults.items() if is_found]


def of_column(texts: pa.Array | pa.ChunkedArray, tokenizer: PreTrainedTokenizerBase | None = None) -> dict[str, int]:
    """Return the number of texts with each fault that can be found without tokenizing them."""
    masks = {REPLACED: pc.match_substring(texts, "\ufffd")}
    if tokenizer is not None and special_token_pattern(tokenizer).pattern != MATCHES_NOTHING:
        masks[CONTROL] = pc.match_substring_regex(texts, special_token_pattern(tokenizer).pattern)
    return {fault: count for fault, mask in masks.items() if (count := pc.sum(mask).as_py())}


def of_ids(tokenizer: PreTrainedTokenizerBase, ids: list[int], *, ends: bool = True) -> list[str]:
    """Return the faults of the token ids of a row before it is cut.

    Args:
        ends: whether it should end with end-of-text; a prompt does not.
    """
    bos, eos, unknown = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id
    faults = {
        UNKNOWN: unknown not in (None, bos, eos, tokenizer.pad_token_id) and unknown in ids,
        TWO_BOS: bos is not None and bos != eos and ids[:2] == [bos, bos],
        NO_BOS: _adds_bos(tokenizer) and ids[:1] != [bos],
        NO_EOS: ends and ids[-1:] != [eos],
    }
    return [fault for fault, is_found in faults.items() if is_found]


def of_mask(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], mask: list[bool], messages: Messages, *, is_cut: bool = False
) -> list[str]:
    """Return `MASK` if the trained tokens, decoded, are not the assistant's messages and nothing else.

    Messages with tool calls are skipped, because every template writes these differently.

    Args:
        mask: which ids are trained.
        is_cut: whether the ids are cut; then only the messages that are complete are compared.
    """
    pairs = zip(ids, mask, strict=True)
    runs = [[token for token, _ in run] for is_trained, run in groupby(pairs, key=lambda pair: pair[1]) if is_trained]
    replies = [message for message in messages if message["role"] == "assistant"]
    if is_cut:
        runs = runs[:-1] if mask[-1] else runs
        replies = replies[: len(runs)]
    if len(runs) != len(replies):
        return [MASK]
    for run, reply in zip(runs, replies, strict=True):
        content = escape_special_tokens(tokenizer, reply.get("content"))
        if not isinstance(content, str) or reply.get("tool_calls"):
            continue
        trained = tokenizer.decode(run[:-1] if run[-1] == tokenizer.eos_token_id else run).strip()
        if trained != content.strip() and trained != _round_trip(tokenizer, content):
            return [MASK]
    return []


@cache
def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer adds the begin-of-text token to a plain text."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]


def _round_trip(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text decoded from its tokens, because not every tokenizer keeps each space and character."""
    return tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids).strip()
