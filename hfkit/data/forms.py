"""The forms of rows that stages read, each as an encoder from a row to what its trainer takes.

An encoder returns the trainer's columns and four of the account: `dropped` (why, or ""), `faults` (of a row that is
kept, see `faults.py`), `cut` (whether its end is missing) and `length` (tokens; it stays, since trainers can group rows
by it).
"""

import math
from functools import partial

from datasets import Dataset, Value

from hfkit.data import faults
from hfkit.data.chat_template import encode_prompt, encode_replies, encode_text, encode_conversation
from hfkit.data.conversions import shared_prompt
from hfkit.data.encoding import IDS, Encoder, encode
from hfkit.data.messages import Messages, RenderError, as_messages, as_reply, tools_of, without_nulls
from hfkit.data.splits import SplitStats

IGNORE = -100  # the label that torch's cross entropy leaves out

TEXT = ["text"]
INSTRUCTIONS = ["messages", "prompt", "response", "completion", "tools", "text"]
PREFERENCES = ["prompt", "chosen", "rejected", "margin", "tools"]
PROMPTS = ["prompt"]


def text_encoder(tokenizer) -> Encoder:
    """The encoder of documents, by bytes where there is no tokenizer yet; `packing.py` makes training rows of them."""
    return Encoder(partial(text_row, tokenizer=tokenizer), {"input_ids": IDS})


def text_row(row: dict, tokenizer) -> dict:
    """One document, closed by end-of-text."""
    empty = {"input_ids": [], "faults": "", "cut": False, "length": 0}
    text = row["text"]
    if not isinstance(text, str) or not text:
        return empty | {"dropped": "empty"}
    ids = [*text.encode()] if tokenizer is None else tokenizer(text, add_special_tokens=False).input_ids
    ids += [] if tokenizer is None else [tokenizer.eos_token_id]
    found = faults.of_texts(tokenizer, text, plain=True)
    return empty | {"input_ids": ids, "dropped": "", "faults": faults.join_faults(found), "length": len(ids)}


def encode_instructions(rows: Dataset, tokenizer, account: SplitStats, config) -> Dataset:
    """SFT rows as `input_ids` and `labels`: labels are the assistant's tokens, of a plain text all of them."""
    return encode(rows, instruction_encoder(tokenizer, config.max_length), account, config)


def instruction_encoder(tokenizer, max_length: int) -> Encoder:
    """The encoder of SFT rows."""
    function = partial(instruction_row, tokenizer=tokenizer, max_length=max_length)
    return Encoder(function, {"input_ids": IDS, "labels": IDS})


def instruction_row(row: dict, tokenizer, max_length: int) -> dict:
    """One row of messages, prompt and response (or completion), or text; cut at `max_length`."""
    empty = {"input_ids": [], "labels": [], "faults": "", "cut": False, "length": 0}
    try:
        if row.get("text") and not row.get("messages") and not row.get("prompt"):
            ids = encode_text(tokenizer, row["text"])
            said, found = [True] * len(ids), faults.of_texts(tokenizer, row["text"], plain=True)
        else:
            messages, prompt, reply = conversation_of(row)
            ids, said = encode_conversation(tokenizer, prompt, reply, tools_of(row.get("tools")), limit=max_length)
            kept, is_cut = slice(max_length), len(ids) > max_length
            found = [
                *faults.of_mask(tokenizer, ids[kept], said[kept], messages, is_cut=is_cut),
                *faults.of_messages(messages),
                *faults.of_texts(tokenizer, messages),
            ]
    except RenderError as error:
        return empty | {"dropped": str(error)}
    labels = [token if mine else IGNORE for token, mine in zip(ids, said, strict=True)]
    whole = len(ids) <= max_length
    lost = not any(label != IGNORE for label in labels[:max_length])
    return {
        "input_ids": ids[:max_length],
        "labels": labels[:max_length],
        "dropped": f"with no reply within max_length={max_length}" if lost else "",
        "faults": faults.join_faults(found, faults.of_ids(tokenizer, ids)),
        "cut": not whole and not lost,
        "length": len(ids),
    }


def conversation_of(row: dict) -> tuple[Messages, str | Messages, str | Messages]:
    """The conversation of a row of messages, or of prompt and response (or completion).

    Returns:
        all of its turns; and what to render: a prompt and the reply to it.

    Raises:
        RenderError: nothing is said, or an assistant's turn is empty.
    """
    prompt, reply = row.get("messages") or row.get("prompt"), []
    if not prompt:
        raise RenderError("empty")
    if not row.get("messages"):
        reply = row.get("response") or row.get("completion")
        if not reply:
            raise RenderError("without a reply")
    messages = as_messages(prompt) + as_reply(reply)
    if any(turn["role"] == "assistant" and is_empty_message(turn) for turn in messages):
        raise RenderError("with an empty reply")
    return messages, prompt, reply


def encode_preferences(rows: Dataset, tokenizer, account: SplitStats, config) -> Dataset:
    """Pairs as `chosen_ids` and `rejected_ids` (and `margin` where given)."""
    return encode(rows, preference_encoder(tokenizer, config.max_length, rows), account, config)


def preference_encoder(tokenizer, max_length: int, rows: Dataset) -> Encoder:
    """The encoder of these pairs."""
    function = partial(preference_row, tokenizer=tokenizer, max_length=max_length)
    margin = {"margin": Value("float64")} if "margin" in rows.column_names else {}
    return Encoder(function, {"chosen_ids": IDS, "rejected_ids": IDS, **margin})


def preference_row(row: dict, tokenizer, max_length: int) -> dict:
    """One pair; see `pair_of`."""
    empty = {"chosen_ids": [], "rejected_ids": [], "faults": "", "cut": False, "length": 0}
    empty |= {"margin": 0.0} if "margin" in row else {}
    try:
        margin = {"margin": margin_of(row)} if "margin" in row else {}
        prompt, replies = pair_of(row)
        chosen, rejected = encode_replies(tokenizer, prompt, replies, tools_of(row.get("tools")))
    except RenderError as error:
        return empty | {"dropped": str(error)}
    length = max(len(chosen), len(rejected))
    if length > max_length:
        return empty | {"dropped": f"longer than max_length={max_length}", "length": length}
    if chosen == rejected:
        return empty | {"dropped": "with replies that are equal once they are rendered", "length": length}
    found = [faults.EMPTY_CHOSEN] if is_empty_message(as_reply(replies[0])[-1]) else []
    found += faults.of_replies(tokenizer, prompt, replies)
    return {
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "dropped": "",
        "faults": faults.join_faults(found, faults.of_ids(tokenizer, chosen), faults.of_ids(tokenizer, rejected)),
        "cut": False,
        "length": length,
        **margin,
    }


def pair_of(row: dict) -> tuple[str | Messages, list[str | Messages]]:
    """The prompt of a pair, and its chosen and its rejected reply.

    Without a `prompt` column the prompt is what both replies begin with; a prompt that is there and empty is none.

    Raises:
        RenderError: nothing is asked, or the replies teach nothing, or are not the assistant's.
    """
    if any(row.get(reply) in (None, []) for reply in ("chosen", "rejected")):
        raise RenderError("without a reply")
    if row["chosen"] == row["rejected"]:
        raise RenderError("with equal replies")
    if "prompt" in row:
        if not row["prompt"]:
            raise RenderError("without a prompt")
        return row["prompt"], [reply_to(row["prompt"], row[reply]) for reply in ("chosen", "rejected")]
    prompt, *replies = shared_prompt(row).values()
    if not prompt:
        raise RenderError("with no prompt in common")
    if not all(reply.strip() if isinstance(reply, str) else reply for reply in replies):
        raise RenderError("with an empty reply")
    return prompt, [reply_to(prompt, reply) for reply in replies]


def reply_to(prompt: str | Messages, reply: str | Messages) -> str | Messages:
    """A reply alone: text as it is, messages without the turns of the prompt, if they begin with them.

    Raises:
        RenderError: it does not end with the assistant's turn, so that an earlier one would pass for it.
    """
    if isinstance(reply, str):
        return reply
    asked, said = as_messages(prompt), as_reply(reply)
    if asked and without_nulls(said[: len(asked)]) == without_nulls(asked):
        said = said[len(asked) :]
    if not said or said[-1]["role"] != "assistant":
        raise RenderError("with a reply that is not the assistant's")
    return said


def is_empty_message(turn: dict) -> bool:
    """Whether a turn is empty; white space counts as something."""
    return not (turn.get("content") or turn.get("tool_calls"))


def margin_of(row: dict) -> float:
    """By how much the chosen reply of a pair should lead; nothing is 0.

    Raises:
        RenderError: it is no number.
    """
    margin = float(row.get("margin") or 0.0)
    if not math.isfinite(margin):
        raise RenderError("with a margin that is no number")
    return margin


def encode_prompts(rows: Dataset, tokenizer, account: SplitStats, config) -> Dataset:
    """PPO's prompts as `input_ids`, the generation prompt at their end, beside `prompt` and the columns as given."""
    encoder = prompt_encoder(tokenizer, config.max_prompt_length, rows)
    return encode(rows, encoder, account, config).remove_columns("length")


def prompt_encoder(tokenizer, max_length: int, rows: Dataset) -> Encoder:
    """The encoder of these prompts, with their other columns as they are."""
    function = partial(prompt_row, tokenizer=tokenizer, max_length=max_length)
    return Encoder(function, {**rows.features, "input_ids": IDS})


def prompt_row(row: dict, tokenizer, max_length: int) -> dict:
    """One prompt; it is never cut, since the generation prompt is at its end."""
    empty = {**row, "input_ids": [], "faults": "", "cut": False, "length": 0}
    if not row["prompt"]:
        return empty | {"dropped": "empty"}
    try:
        ids = encode_prompt(tokenizer, row["prompt"])
    except RenderError as error:
        return empty | {"dropped": str(error)}
    if len(ids) > max_length:
        return empty | {"dropped": f"longer than max_prompt_length={max_length}", "length": len(ids)}
    found = faults.of_texts(tokenizer, row["prompt"]) + faults.of_ids(tokenizer, ids, ends=False)
    return {**empty, "input_ids": ids, "dropped": "", "faults": faults.join_faults(found), "length": len(ids)}
