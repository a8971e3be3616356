"""What is wrong with a row that can be trained on all the same: named, so that it is counted, told and recorded.

An encoder puts the faults that it finds into the column `faults`, joined with `JOINT`.
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
SPECIAL = "with the text of a special token, read as plain text"
CONTROL = "with the text of a special token, read as that token"
REPLACED = "with U+FFFD, where characters were lost"
REPEATED = "with two turns of one role in a row"
UNKNOWN = "with unknown tokens"
NO_BOS = "without the begin-of-text token that its tokenizer adds"
TWO_BOS = "with two begin-of-text tokens"
NO_EOS = "without end-of-text at its end"
MASK = "whose trained tokens are not its replies"
EMPTY_CHOSEN = "whose chosen reply is empty"


def join_faults(*found: Iterable[str]) -> str:
    """Faults as a column holds them, each once."""
    return JOINT.join(dict.fromkeys(fault for faults in found for fault in faults))


def count_faults(column: Iterable[str]) -> dict[str, int]:
    """Rows with each fault, the most frequent first."""
    return dict(Counter(fault for faults in column if faults for fault in faults.split(JOINT)).most_common())


def of_messages(messages: Messages) -> list[str]:
    """Faults of a conversation's order: two turns of one role without one between them but of the system's."""
    roles = [turn["role"] for turn in messages]
    spoken = [role for role in roles if role != "system"]
    repeated = any(one == other != "tool" for pairs in (roles, spoken) for one, other in pairwise(pairs))
    return [REPEATED] if repeated else []


def of_replies(tokenizer: PreTrainedTokenizerBase, prompt: str | Messages, replies: list[str | Messages]) -> list[str]:
    """Faults of a prompt and of the replies that are compared."""
    asked = as_messages(prompt)
    found = [fault for reply in replies for fault in of_messages(asked + as_reply(reply))]
    return found + of_texts(tokenizer, [prompt, replies])


def of_texts(tokenizer: PreTrainedTokenizerBase | None, contents: object, *, plain: bool = False) -> list[str]:
    """Faults of what people wrote.

    Args:
        contents: strings, in lists and mappings of any depth.
        plain: whether a text is tokenized as it is, so that a special token in it is one.
    """
    found = special_token_pattern(tokenizer).search
    texts = [*iter_strings(contents)]
    faults = {
        CONTROL if plain else SPECIAL: any(map(found, texts)),
        REPLACED: any("\ufffd" in text for text in texts),
    }
    return [fault for fault, is_there in faults.items() if is_there]


def of_column(texts: pa.Array | pa.ChunkedArray, tokenizer: PreTrainedTokenizerBase | None = None) -> dict[str, int]:
    """Texts with each fault that can be told without tokenizing them."""
    sought = {REPLACED: pc.match_substring(texts, "\ufffd")}
    if tokenizer is not None and special_token_pattern(tokenizer).pattern != MATCHES_NOTHING:
        sought[CONTROL] = pc.match_substring_regex(texts, special_token_pattern(tokenizer).pattern)
    return {fault: count for fault, found in sought.items() if (count := pc.sum(found).as_py())}


def of_ids(tokenizer: PreTrainedTokenizerBase, ids: list[int], *, ends: bool = True) -> list[str]:
    """Faults of the token ids of a row before it is cut.

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
    return [fault for fault, is_there in faults.items() if is_there]


def of_mask(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], said: list[bool], messages: Messages, *, is_cut: bool = False
) -> list[str]:
    """Whether the trained tokens, decoded, are the assistant's turns and nothing else.

    Turns with tool calls are left out, since each template writes these in a way of its own.

    Args:
        is_cut: whether the row goes on after these ids: then the turns that end before it does are looked at.
    """
    runs = [[ids[place] for place, _ in run] for mine, run in groupby(enumerate(said), key=lambda x: x[1]) if mine]
    turns = [turn for turn in messages if turn["role"] == "assistant"]
    if is_cut:
        runs = runs[:-1] if said[-1] else runs
        turns = turns[: len(runs)]
    if len(runs) != len(turns):
        return [MASK]
    for run, turn in zip(runs, turns, strict=True):
        content = escape_special_tokens(tokenizer, turn.get("content"))
        if not isinstance(content, str) or turn.get("tool_calls"):
            continue
        trained = tokenizer.decode(run[:-1] if run[-1] == tokenizer.eos_token_id else run).strip()
        if trained != content.strip() and trained != _reread(tokenizer, content):
            return [MASK]
    return []


@cache
def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer begins a plain text with a token of its own."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]


def _reread(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A text as it comes back from its own tokens: not every tokenizer keeps each space and character."""
    return tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids).strip()
