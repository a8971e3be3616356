"""Rankings: several replies to a prompt, with scores (higher is better) or else ranks (1 is best); equal ones are ties.

A row keeps all of its pairs together: they are compared in one step, and each reply is read once (see
`hfkit.training.ranking_trainer`).
A pair of replies, chosen and rejected, is a ranking of two.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations

from datasets import Dataset, Features, List, Value

from hfkit.core.errors import HfkitError
from hfkit.data import faults
from hfkit.data.chat_template import encode_replies
from hfkit.data.encoding import IDS, Encoder, encode
from hfkit.data.forms import (
    PREFERENCES,
    encode_preferences,
    margin_of,
    pair_of,
    preference_encoder,
    reply_to,
    is_empty_message,
)
from hfkit.data.messages import Messages, RenderError, as_reply, tools_of
from hfkit.data.splits import SplitStats

REPLY_TOO_LONG = "with a reply longer than"
COMPARISONS = [*PREFERENCES, "replies", "ranks", "scores"]
"""The columns of pairs and of rankings."""


def choose_encoding(rows: Dataset, config) -> Callable:
    """`encode_rankings` where the rows are rankings, else `encode_preferences`.

    Raises:
        HfkitError: no column says what was asked or which reply is better; `score_margin` without scores.
    """
    columns = rows.column_names
    if "replies" in columns and ("prompt" not in columns or not {"ranks", "scores"} & {*columns}):
        raise HfkitError(f"rankings have the columns prompt, replies, and ranks or scores; these have {columns}")
    if config.score_margin and not {"replies", "scores"} <= {*columns}:
        remedy = "pairs give theirs in the column margin"
        raise HfkitError(f"score_margin: {config.score_margin:g} needs rankings with scores, not {columns}; {remedy}")
    return encode_rankings if "replies" in columns else encode_preferences


def encode_held_out(rows: Dataset, tokenizer, account: SplitStats, config, *, as_rankings: bool) -> Dataset:
    """Held-out rows, rankings or pairs, as the training rows are: pairs as rankings of two, or rankings as their pairs.

    Raises:
        HfkitError: as `choose_encoding`, or no row is left.
    """
    if as_rankings:
        return encode_rankings(rows, tokenizer, account, config)
    encoded = choose_encoding(rows, config)(rows, tokenizer, account, config)
    return as_pairs(encoded) if "reply_ids" in encoded.column_names else encoded


def encode_rankings(rows: Dataset, tokenizer, account: SplitStats, config) -> Dataset:
    """Rankings as `reply_ids`, the places `better` and `worse` of each pair among them, and `margin` if asked for."""
    return encode(rows, ranking_encoder(tokenizer, config.max_length, rows, config.score_margin), account, config)


def ranking_encoder(tokenizer, max_length: int, rows: Dataset, score_margin: float = 0.0) -> Encoder:
    """The encoder of these rankings, or pairs; margins are made of scores where they have them."""
    score_margin = score_margin if "scores" in rows.column_names else 0.0
    function = partial(ranking_row, tokenizer=tokenizer, max_length=max_length, score_margin=score_margin)
    margin = {"margin": List(Value("float64"))} if score_margin or "margin" in rows.column_names else {}
    return Encoder(function, {"reply_ids": List(IDS), "better": IDS, "worse": IDS, **margin})


def comparison_encoder(tokenizer, max_length: int, rows: Dataset, score_margin: float = 0.0) -> Encoder:
    """The encoder of these rows, be they rankings or pairs."""
    if "replies" in rows.column_names:
        return ranking_encoder(tokenizer, max_length, rows, score_margin)
    return preference_encoder(tokenizer, max_length, rows)


def as_pairs(rankings: Dataset) -> Dataset:
    """Encoded rankings as rows of `chosen_ids` and `rejected_ids`, one for each of their pairs, and their `ranking`."""
    pairs = [
        {"chosen_ids": row["reply_ids"][better], "rejected_ids": row["reply_ids"][worse], "ranking": place}
        for place, row in enumerate(rankings)
        for better, worse in zip(row["better"], row["worse"], strict=True)
    ]
    return Dataset.from_list(pairs, features=Features({"chosen_ids": IDS, "rejected_ids": IDS, "ranking": IDS.feature}))


def ranking_row(row: dict, tokenizer, max_length: int, score_margin: float = 0.0) -> dict:
    """One ranking; a reply that is too long is left out of it, which is one of the row's faults.

    Args:
        score_margin: the margin of a pair is this times the difference of its scores; 0 is none.
    """
    empty = {"reply_ids": [], "better": [], "worse": [], "faults": "", "cut": False, "length": 0}
    empty |= {"margin": []} if score_margin or "margin" in row else {}
    try:
        prompt, replies, values, margin = read_comparison(row)
        encoded = encode_replies(tokenizer, prompt, replies, tools_of(row.get("tools")))
    except RenderError as error:
        return empty | {"dropped": str(error)}
    short = [place for place, ids in enumerate(encoded) if len(ids) <= max_length]
    ids, values, said = ([column[place] for place in short] for column in (encoded, values, replies))
    pairs = [
        (one, other) if values[one] > values[other] else (other, one)
        for one, other in combinations(range(len(ids)), 2)
        if values[one] != values[other] and ids[one] != ids[other]
    ]
    left_out = [f"{REPLY_TOO_LONG} max_length={max_length}"] if len(short) < len(encoded) else []
    if not pairs:
        return empty | {"dropped": next(iter(left_out), "all tied"), "length": max(map(len, encoded))}
    margins = [score_margin * (values[better] - values[worse]) if score_margin else margin for better, worse in pairs]
    found = [
        left_out,
        [faults.EMPTY_CHOSEN] if any(is_empty_message(as_reply(said[better])[-1]) for better, _ in pairs) else [],
        faults.of_replies(tokenizer, prompt, replies),
        *(faults.of_ids(tokenizer, reply) for reply in ids),
    ]
    return {
        "reply_ids": ids,
        "better": [better for better, _ in pairs],
        "worse": [worse for _, worse in pairs],
        "dropped": "",
        "faults": faults.join_faults(*found),
        "cut": False,
        "length": max(map(len, ids)),
        **({"margin": margins} if "margin" in empty else {}),
    }


def read_comparison(row: dict) -> tuple[str | Messages, list, list[float], float]:
    """The prompt of a row, its replies, a value for each (the best one's is the highest), and the margin of a pair.

    Raises:
        RenderError: they cannot be ranked, or one is not the assistant's.
    """
    if row.get("chosen") is not None and row.get("rejected") is not None:
        return *pair_of(row), [1.0, 0.0], margin_of(row)
    replies, scores = row.get("replies"), row.get("scores")
    if not isinstance(replies, list) or any(reply is None for reply in replies):
        raise RenderError("without a reply")
    if len(replies) < 2:
        raise RenderError("with fewer than two replies")
    values = row.get("ranks") if scores is None else scores
    if not isinstance(values, list) or len(values) != len(replies):
        raise RenderError("with other numbers of replies and of ranks or scores")
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        raise RenderError("with a rank or score that is no number")
    if not row["prompt"]:
        raise RenderError("without a prompt")
    replies = [reply_to(row["prompt"], reply) for reply in replies]
    return row["prompt"], replies, [-value for value in values] if scores is None else values, 0.0
