"""The account of a split: the tokens that its rows are, the budgets that these fill, and the rows that are left out."""

import pytest

from hfkit.config import DatasetEntry, RewardConfig, SFTConfig
from hfkit.data.forms import INSTRUCTIONS, encode_instructions
from hfkit.data.rankings import COMPARISONS, encoding_of
from hfkit.data.splits import load_splits
from hfkit.data.survey import surveys_of

REPLIES = ["In Oslo it is.", "In Rome.", "In Bonn.", "In none of them, as far as I know."]
LONG = {"prompt": "What?", "response": "red and blue and green " * 20}
ROWS = {
    "cut": LONG,
    "whole": {"prompt": "What?", "response": "Red."},
    "pairs": {"prompt": "Where?", "chosen": REPLIES[0], "rejected": REPLIES[3]},
    "rankings": {"prompt": "Where?", "replies": REPLIES, "scores": [4, 3, 2, 1]},
    "rankings that lose a reply": {
        "prompt": "Where?",
        "replies": [*REPLIES, LONG["response"]],
        "scores": [5, 4, 3, 2, 1],
    },
}


def config_for(entries: list[dict], **changes):
    kind = RewardConfig if changes.pop("ranked", False) else SFTConfig
    entries = [DatasetEntry(**entry) for entry in entries]
    return kind(output_dir="unused", datasets=entries, max_length=64, max_dropped=1.0, **changes)


def prepared(entries: list[dict], tokenizer, **changes):
    """The rows as their stage trains on them, and the account of them."""
    config = config_for(entries, **changes)
    is_ranked = isinstance(config, RewardConfig)
    rows, _, account = load_splits(config, COMPARISONS if is_ranked else INSTRUCTIONS)
    encode = encoding_of(rows, config) if is_ranked else encode_instructions
    return encode(rows, tokenizer, account["train"], config), account["train"]


def ids_of(rows) -> list[list[int]]:
    """Every sequence that a model reads of these rows."""
    columns = {"input_ids", "chosen_ids", "rejected_ids"} & {*rows.column_names}
    found = [ids for name in columns for ids in rows[name]]
    return found + [
        ids for replies in (rows["reply_ids"] if "reply_ids" in rows.column_names else []) for ids in replies
    ]


@pytest.mark.parametrize("kind", ROWS)
def test_the_tokens_of_a_split_are_those_that_are_read(rows_file, tokenizer, kind):
    entries, ranked = rows_file([ROWS[kind]] * 20), "response" not in ROWS[kind]
    rows, account = prepared(entries, tokenizer, ranked=ranked)
    there = sum(map(len, ids_of(rows)))
    assert account.tokens == account.sources[0]["taken"]["tokens"] == there
    one = next(surveys_of(config_for(entries, ranked=ranked), tokenizer))
    assert one.tokens == there
    assert one.cut_tokens == (sum(rows["length"]) - there if kind == "cut" else 0)
    budget = there // 2
    rows, account = prepared([entries[0] | {"tokens": budget}], tokenizer, ranked=ranked)
    assert len(rows) == 10
    assert account.tokens == sum(map(len, ids_of(rows)))
