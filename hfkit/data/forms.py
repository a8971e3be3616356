"""Defines the forms of rows that stages read: the columns of each form, and its encoder for the trainer.

To add a form, write an encoder and add it to `FORMS`; `StageSpec.form` names it. Pairs and rankings are in
`comparisons.py`, and the forms that data cards declare in `cards.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from datasets import Dataset

from hfkit.data import faults
from hfkit.data.chat_template import encode_prompt, encode_text, split_conversation
from hfkit.data.comparisons import COMPARISONS, comparison_encoder, margin_scale
from hfkit.data.encoding import IDS, PARTS, Encoder, encode, encoded_row, warn_without_template
from hfkit.data.faults import Fault
from hfkit.data.messages import (
    Messages,
    RenderError,
    as_messages,
    as_reply,
    is_empty_message,
    is_trained,
    tools_of,
)
from hfkit.data.rendering import TEMPLATE_KWARGS, variables_of
from hfkit.data.splits import SplitStats

IGNORE = -100  # the label that torch's cross entropy ignores

TEXT = ["text"]
INSTRUCTIONS = ["messages", "prompt", "response", "completion", "tools", "text", TEMPLATE_KWARGS]
PROMPTS = ["prompt"]


def text_row(row: dict, tokenizer) -> dict:
    """Return one document's `input_ids`, ending with end-of-text, or its bytes if `tokenizer` is None.

    For surveys only; `packing.py` creates the training rows.
    """
    text = row["text"]
    if not isinstance(text, str) or not text:
        return encoded_row({"input_ids": []}, dropped="empty")
    ids = [*text.encode()] if tokenizer is None else tokenizer(text, add_special_tokens=False).input_ids
    ids += [] if tokenizer is None else [tokenizer.eos_token_id]
    return encoded_row({"input_ids": ids}, found=faults.of_texts(tokenizer, text, plain=True), length=len(ids))


def encode_instructions(rows: Dataset, tokenizer, stats: SplitStats, config) -> Dataset:
    """Return SFT rows as `input_ids` and `labels`: the assistant's tokens, or all tokens of a plain text."""
    warn_without_template(rows, tokenizer, stats.name)
    return encode(rows, instruction_encoder(tokenizer, config.max_length), stats, config)


def instruction_encoder(tokenizer, max_length: int) -> Encoder:
    """Return the encoder of SFT rows."""
    function = partial(instruction_row, tokenizer=tokenizer, max_length=max_length)
    return Encoder(function, {"input_ids": IDS, "labels": IDS, PARTS: IDS})


def instruction_row(row: dict, tokenizer, max_length: int) -> dict:
    """Return one row of messages, of prompt and response (or completion), or of text, cut at `max_length`.

    If the chat template splits a conversation into several sequences (see `split_conversation`), they are joined, and
    `parts` has their lengths; `encode` turns each into a row. A sequence whose response begins after `max_length` is
    left out, and the row counts as cut.
    """
    empty = {"input_ids": [], "labels": [], PARTS: []}
    try:
        if row.get("text") and not row.get("messages") and not row.get("prompt"):
            ids = encode_text(tokenizer, row["text"])
            sequences, found = [(ids, [True] * len(ids))], faults.of_texts(tokenizer, row["text"], plain=True)
        else:
            messages, prompt, reply = conversation_of(row)
            options = tools_of(row.get("tools")), variables_of(row)
            sequences = split_conversation(tokenizer, prompt, reply, *options, limit=max_length)
            found = faults.of_messages(messages) + faults.of_texts(tokenizer, messages)
            if tokenizer.chat_template:
                trained = [index for index, message in enumerate(messages) if is_trained(message)]
                found += faults.of_rendered(tokenizer, messages[: trained[-1]], sequences[-1][0])
    except RenderError as error:
        return encoded_row(empty, dropped=str(error))
    kept = [(ids[:max_length], mask[:max_length]) for ids, mask in sequences if any(mask[:max_length])]
    lost = not kept
    kept = kept or [(ids[:max_length], mask[:max_length]) for ids, mask in sequences[:1]]
    labels = [
        token if is_trained else IGNORE for ids, mask in kept for token, is_trained in zip(ids, mask, strict=True)
    ]
    parts = [len(ids) for ids, _ in kept] if len(sequences) > 1 else []
    return encoded_row(
        {"input_ids": [token for ids, _ in kept for token in ids], "labels": labels, PARTS: parts},
        dropped=f"with no response within max_length={max_length}" if lost else "",
        found=found + [fault for ids, _ in sequences for fault in faults.of_ids(tokenizer, ids)],
        cut=any(len(ids) > max_length for ids, _ in sequences) and not lost,
        length=sum(len(ids) for ids, _ in sequences),
    )


def conversation_of(row: dict) -> tuple[Messages, str | Messages, str | Messages]:
    """Return the conversation of a row of messages, or of prompt and response (or completion).

    Returns:
        all of its messages; and the prompt and response to render.

    Raises:
        RenderError: there is no prompt or no response, or an assistant message is empty.
    """
    prompt, reply = row.get("messages") or row.get("prompt"), []
    if not prompt:
        raise RenderError("empty")
    if not row.get("messages"):
        reply = row.get("response") or row.get("completion")
        if not reply:
            raise RenderError("without a response")
    messages = as_messages(prompt) + as_reply(reply)
    if any(message["role"] == "assistant" and is_empty_message(message) for message in messages):
        raise RenderError("with an empty response")
    return messages, prompt, reply


def encode_prompts(rows: Dataset, tokenizer, stats: SplitStats, config) -> Dataset:
    """Return PPO's prompts as `input_ids`, including the generation prompt, together with the unchanged columns."""
    warn_without_template(rows, tokenizer, stats.name)
    encoder = prompt_encoder(tokenizer, config.max_prompt_length, rows)
    return encode(rows, encoder, stats, config).remove_columns("length")


def prompt_encoder(tokenizer, max_length: int, rows: Dataset) -> Encoder:
    """Return the encoder of these prompts, which keeps their columns."""
    function = partial(prompt_row, tokenizer=tokenizer, max_length=max_length)
    return Encoder(function, {**rows.features, "input_ids": IDS})


def prompt_row(row: dict, tokenizer, max_length: int) -> dict:
    """Return one prompt; it is never cut, because it ends with the generation prompt."""
    empty = {**row, "input_ids": []}
    if not row["prompt"]:
        return encoded_row(empty, dropped="empty")
    try:
        ids = encode_prompt(tokenizer, row["prompt"], tools_of(row.get("tools")), variables_of(row))
    except RenderError as error:
        return encoded_row(empty, dropped=str(error))
    if len(ids) > max_length:
        return encoded_row(empty, dropped=f"longer than max_prompt_length={max_length}", length=len(ids))
    found = faults.of_messages(as_messages(row["prompt"])) + faults.of_texts(tokenizer, row["prompt"])
    found += faults.of_ids(tokenizer, ids, ends=False)
    if tokenizer.chat_template:
        found += faults.of_rendered(tokenizer, as_messages(row["prompt"]), ids)
    return encoded_row({**row, "input_ids": ids}, found=found, length=len(ids))


@dataclass(frozen=True)
class Form:
    """The columns that a stage reads, and their encoder.

    Args:
        columns: the columns that it can read; a source has some of them.
        encoder: (rows, tokenizer, maximum tokens per row, config) -> the encoder of these rows.
        length_key: the config key of the maximum tokens per row; None if there is no limit.
        faults: the faults that `hfkit data check` reports as absent if no row has them.
    """

    columns: list[str]
    encoder: Callable[..., Encoder]
    length_key: str | None = None
    faults: tuple[Fault, ...] = ()


FORMS = {
    "text": Form(TEXT, lambda rows, tokenizer, *_: Encoder(partial(text_row, tokenizer=tokenizer), {"input_ids": IDS})),
    "instructions": Form(
        INSTRUCTIONS,
        lambda rows, tokenizer, limit, config: instruction_encoder(tokenizer, limit),
        length_key="max_length",
        faults=(Fault.NO_EOS, Fault.TWO_BOS),
    ),
    "comparisons": Form(
        COMPARISONS,
        lambda rows, tokenizer, limit, config: comparison_encoder(tokenizer, limit, rows, margin_scale(config)),
        length_key="max_length",
        faults=(Fault.NO_EOS, Fault.TWO_BOS),
    ),
    "prompts": Form(
        PROMPTS,
        lambda rows, tokenizer, limit, config: prompt_encoder(tokenizer, limit, rows),
        length_key="max_prompt_length",
        faults=(Fault.TWO_BOS,),
    ),
}
"""The forms by `StageSpec.form`."""
