"""Encodes comparisons of responses to a prompt: pairs (chosen, rejected), and rankings by scores or ranks.

Higher scores are better; rank 1 is best; equal values are ties. A row of a ranking keeps all of its pairs together:
they are compared in one step, and each response is encoded once (see `hfkit.training.comparison_trainer`). A pair is
a ranking of two.
"""

import math
from functools import partial
from itertools import combinations

from datasets import Dataset, Features, List, Value

from hfkit.core.errors import HfkitError
from hfkit.data import faults
from hfkit.data.chat_template import replies_and_spans
from hfkit.data.conversions import common_length, shared_prompt
from hfkit.data.encoding import IDS, Encoder, encode, encoded_row, warn_without_template
from hfkit.data.faults import Fault
from hfkit.data.messages import Messages, RenderError, as_messages, as_reply, is_empty_message, tools_of, without_nulls
from hfkit.data.rendering import TEMPLATE_KWARGS, variables_of
from hfkit.data.splits import SplitStats

PREFERENCES = ["prompt", "chosen", "rejected", "margin", "tools", TEMPLATE_KWARGS]
COMPARISONS = [*PREFERENCES, "replies", "ranks", "scores"]
"""The columns of pairs and of rankings."""


def encode_comparisons(rows: Dataset, tokenizer, stats: SplitStats, config) -> Dataset:
    """Return encoded pairs or rankings.

    Returns:
        pairs as `chosen_ids` and `rejected_ids`; rankings as `reply_ids` and the indices `better` and `worse` of their
        pairs; both with `spans`, the indices [begin, end, ...] of the assistant's tokens in each response, and with
        `margin` if given or requested.

    Raises:
        HfkitError: rankings without prompts, ranks or scores, or `score_margin` without scores; or as `encode`.
    """
    columns = rows.column_names
    if "replies" in columns and ("prompt" not in columns or not {"ranks", "scores"} & {*columns}):
        raise HfkitError(f"rankings need the columns prompt, replies, and ranks or scores, but the rows have {columns}")
    if margin_scale(config) and not {"replies", "scores"} <= {*columns}:
        remedy = "for pairs, use the column margin"
        raise HfkitError(f"score_margin: {config.score_margin:g} needs rankings with scores, not {columns}; {remedy}")
    warn_without_template(rows, tokenizer, stats.name)
    return encode(rows, comparison_encoder(tokenizer, config.max_length, rows, margin_scale(config)), stats, config)


def encode_held_out(rows: Dataset, tokenizer, stats: SplitStats, config, *, as_rankings: bool) -> Dataset:
    """Return held-out rows encoded like the training rows: pairs as rankings of two, or rankings as their pairs.

    Raises:
        HfkitError: as `encode_comparisons`.
    """
    if as_rankings:
        return encode(rows, ranking_encoder(tokenizer, config.max_length, rows, margin_scale(config)), stats, config)
    return encode_pairs(rows, tokenizer, stats, config)


def encode_pairs(rows: Dataset, tokenizer, stats: SplitStats, config) -> Dataset:
    """Return encoded pairs: `chosen_ids`, `rejected_ids` and `spans`; a ranking becomes all of its pairs.

    Raises:
        HfkitError: as `encode_comparisons`.
    """
    encoded = encode_comparisons(rows, tokenizer, stats, config)
    return as_pairs(encoded) if "reply_ids" in encoded.column_names else encoded


def margin_scale(config) -> float:
    """Return the `score_margin` of a config; 0 for a stage without margins."""
    return getattr(config, "score_margin", 0.0)


def comparison_encoder(tokenizer, max_length: int, rows: Dataset, score_margin: float = 0.0) -> Encoder:
    """Return the encoder of these rows, rankings or pairs."""
    if "replies" in rows.column_names:
        return ranking_encoder(tokenizer, max_length, rows, score_margin)
    function = partial(preference_row, tokenizer=tokenizer, max_length=max_length)
    margin = {"margin": Value("float64")} if "margin" in rows.column_names else {}
    return Encoder(function, {"chosen_ids": IDS, "rejected_ids": IDS, "spans": List(IDS), **margin})


def ranking_encoder(tokenizer, max_length: int, rows: Dataset, score_margin: float = 0.0) -> Encoder:
    """Return the encoder of these rankings or pairs; margins are computed from scores, if there are any."""
    score_margin = score_margin if "scores" in rows.column_names else 0.0
    function = partial(ranking_row, tokenizer=tokenizer, max_length=max_length, score_margin=score_margin)
    margin = {"margin": List(Value("float64"))} if score_margin or "margin" in rows.column_names else {}
    return Encoder(function, {"reply_ids": List(IDS), "spans": List(IDS), "better": IDS, "worse": IDS, **margin})


def as_pairs(rankings: Dataset) -> Dataset:
    """Return encoded rankings as pairs: `chosen_ids`, `rejected_ids`, `spans`, `length`, and the index `ranking`."""
    pairs = [
        {
            "chosen_ids": row["reply_ids"][better],
            "rejected_ids": row["reply_ids"][worse],
            "spans": [row["spans"][better], row["spans"][worse]],
            "length": max(len(row["reply_ids"][side]) for side in (better, worse)),
            "ranking": index,
        }
        for index, row in enumerate(rankings)
        for better, worse in zip(row["better"], row["worse"], strict=True)
    ]
    columns = {"chosen_ids": IDS, "rejected_ids": IDS, "spans": List(IDS)}
    columns |= dict.fromkeys(("length", "ranking"), IDS.feature)
    return Dataset.from_list(pairs, features=Features(columns))


def preference_row(row: dict, tokenizer, max_length: int) -> dict:
    """Return one encoded pair; see `pair_of`."""
    empty = {"chosen_ids": [], "rejected_ids": [], "spans": [], **({"margin": 0.0} if "margin" in row else {})}
    try:
        margin = {"margin": margin_of(row)} if "margin" in row else {}
        prompt, replies = pair_of(row)
        encoded = replies_and_spans(tokenizer, prompt, replies, tools_of(row.get("tools")), variables_of(row))
    except RenderError as error:
        return encoded_row(empty, dropped=str(error))
    (chosen, rejected), spans = zip(*encoded, strict=True)
    length = max(len(chosen), len(rejected))
    if length > max_length:
        return encoded_row(empty, dropped=f"longer than max_length={max_length}", length=length)
    if chosen == rejected:
        return encoded_row(empty, dropped="with responses that are equal when rendered", length=length)
    found = [Fault.EMPTY_CHOSEN] if is_empty_message(as_reply(replies[0])[-1]) else []
    found += faults.of_replies(tokenizer, prompt, replies, chosen, spans)
    found += faults.of_ids(tokenizer, chosen) + faults.of_ids(tokenizer, rejected)
    columns = {"chosen_ids": chosen, "rejected_ids": rejected, "spans": spans, **margin}
    return encoded_row(columns, found=found, length=length)


def ranking_row(row: dict, tokenizer, max_length: int, score_margin: float = 0.0) -> dict:
    """Return one encoded ranking; a response that is too long is left out and counted as a fault of the row.

    Args:
        score_margin: the margin of a pair is this times the difference of its scores; 0: no margins.
    """
    has_margin = bool(score_margin) or "margin" in row
    empty = {"reply_ids": [], "spans": [], "better": [], "worse": [], **({"margin": []} if has_margin else {})}
    try:
        prompt, replies, values, margin = read_comparison(row)
        encoded = replies_and_spans(tokenizer, prompt, replies, tools_of(row.get("tools")), variables_of(row))
    except RenderError as error:
        return encoded_row(empty, dropped=str(error))
    encoded, spans = zip(*encoded, strict=True)
    short = [index for index, ids in enumerate(encoded) if len(ids) <= max_length]
    kept = ([column[index] for index in short] for column in (encoded, spans, values, replies))
    ids, short_spans, values, short_replies = kept
    pairs = [
        (one, other) if values[one] > values[other] else (other, one)
        for one, other in combinations(range(len(ids)), 2)
        if values[one] != values[other] and ids[one] != ids[other]
    ]
    is_shortened = len(short) < len(encoded)
    if not pairs:
        reason = f"with a response longer than max_length={max_length}" if is_shortened else "all tied"
        return encoded_row(empty, dropped=reason, length=max(map(len, encoded)))
    margins = [score_margin * (values[better] - values[worse]) if score_margin else margin for better, worse in pairs]
    is_empty_chosen = any(is_empty_message(as_reply(short_replies[better])[-1]) for better, _ in pairs)
    found = (
        [Fault.REPLY_TOO_LONG] * is_shortened
        + [Fault.EMPTY_CHOSEN] * is_empty_chosen
        + faults.of_replies(tokenizer, prompt, replies, ids[0], spans)
    )
    found += [fault for reply in ids for fault in faults.of_ids(tokenizer, reply)]
    better, worse = ([pair[side] for pair in pairs] for side in (0, 1))
    columns = {
        "reply_ids": ids,
        "spans": short_spans,
        "better": better,
        "worse": worse,
        **({"margin": margins} if has_margin else {}),
    }
    return encoded_row(columns, found=found, length=max(map(len, ids)))


def pair_of(row: dict) -> tuple[str | Messages, list[str | Messages]]:
    """Return the prompt of a pair, and its chosen and its rejected response.

    Without a `prompt` column, the prompt is the common start of both responses. With one, an empty prompt is an error.

    Raises:
        RenderError: there is no prompt, a response is missing, they are equal, or one is not the assistant's.
    """
    if any(row.get(reply) in (None, []) for reply in ("chosen", "rejected")):
        raise RenderError("without a response")
    if row["chosen"] == row["rejected"]:
        raise RenderError("with equal responses")
    if "prompt" in row:
        if not row["prompt"]:
            raise RenderError("without a prompt")
        return after_common_turns(
            row["prompt"], [reply_to(row["prompt"], row[reply]) for reply in ("chosen", "rejected")]
        )
    prompt, *replies = shared_prompt(row).values()
    if not prompt:
        raise RenderError("with no prompt in common")
    if not all(reply.strip() if isinstance(reply, str) else reply for reply in replies):
        raise RenderError("with an empty response")
    return prompt, [reply_to(prompt, reply) for reply in replies]


def read_comparison(row: dict) -> tuple[str | Messages, list, list[float], float]:
    """Return the prompt of a pair or ranking, its responses, a value of each (higher is better), and a pair's margin.

    Raises:
        RenderError: the responses cannot be ranked, or one is not the assistant's.
    """
    if row.get("chosen") is not None and row.get("rejected") is not None:
        return *pair_of(row), [1.0, 0.0], margin_of(row)
    replies, scores = row.get("replies"), row.get("scores")
    if not isinstance(replies, list) or any(reply is None for reply in replies):
        raise RenderError("without a response")
    if len(replies) < 2:
        raise RenderError("with fewer than two responses")
    values = row.get("ranks") if scores is None else scores
    if not isinstance(values, list) or len(values) != len(replies):
        raise RenderError("with a number of ranks or scores that differs from the number of responses")
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        raise RenderError("with a rank or score that is not a number")
    if not row["prompt"]:
        raise RenderError("without a prompt")
    prompt, replies = after_common_turns(row["prompt"], [reply_to(row["prompt"], reply) for reply in replies])
    return prompt, replies, [-value for value in values] if scores is None else values, 0.0


def reply_to(prompt: str | Messages, reply: str | Messages) -> str | Messages:
    """Return a response alone: text unchanged, messages without those of the prompt if they begin with them.

    Raises:
        RenderError: it does not end with an assistant message, so an earlier one would be used as the response.
    """
    if isinstance(reply, str):
        return reply
    before, messages = as_messages(prompt), as_reply(reply)
    if before and without_nulls(messages[: len(before)]) == without_nulls(before):
        messages = messages[len(before) :]
    if not messages or messages[-1]["role"] != "assistant":
        raise RenderError("with a response that is not the assistant's")
    return messages


def after_common_turns(
    prompt: str | Messages, replies: list[str | Messages]
) -> tuple[str | Messages, list[str | Messages]]:
    """Return a prompt with the messages that all of its responses begin with, and the responses without them."""
    turns = [without_nulls(as_reply(reply)[:-1]) for reply in replies]  # each keeps its last message
    count = min(common_length(turns[0], other) for other in turns)
    if not count:
        return prompt, replies
    return as_messages(prompt) + as_reply(replies[0])[:count], [as_reply(reply)[count:] for reply in replies]


def mask_of(spans: list[int], length: int) -> list[bool]:
    """Return whether each of `length` tokens is in one of the spans [begin, end, begin, end, ...]."""
    mask = [False] * length
    for begin, end in zip(spans[::2], spans[1::2], strict=True):
        mask[begin:end] = [True] * (end - begin)
    return mask


def margin_of(row: dict) -> float:
    """Return by how much the reward of a pair's chosen response should be higher; a missing margin is 0.

    Raises:
        RenderError: the margin is not a number.
    """
    margin = float(row.get("margin") or 0.0)
    if not math.isfinite(margin):
        raise RenderError("with a margin that is not a number")
    return margin
