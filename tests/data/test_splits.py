"""The statistics of a split: tokens of its rows, filled budgets, and rows that are left out."""

import pytest
from quick import mostly_slow, slow

from hfkit.commands.data.survey import surveys_of
from hfkit.config.fields import DatasetEntry
from hfkit.config.stages import RewardConfig, SFTConfig
from hfkit.core.errors import HfkitError
from hfkit.data.comparisons import COMPARISONS, encode_comparisons
from hfkit.data.forms import INSTRUCTIONS, encode_instructions
from hfkit.data.splits import load_splits

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
    return kind(output_dir="unused", datasets=entries, **{"max_length": 64, "max_dropped": 1.0, **changes})


def prepared(entries: list[dict], tokenizer, **changes):
    """Return the rows as their stage trains on them, and their statistics."""
    config = config_for(entries, **changes)
    is_ranked = isinstance(config, RewardConfig)
    rows, _, stats = load_splits(config, COMPARISONS if is_ranked else INSTRUCTIONS)
    encode = encode_comparisons if is_ranked else encode_instructions
    return encode(rows, tokenizer, stats["train"], config), stats["train"]


def ids_of(rows) -> list[list[int]]:
    """Return every sequence of these rows that a model reads."""
    columns = {"input_ids", "chosen_ids", "rejected_ids"} & {*rows.column_names}
    found = [ids for name in columns for ids in rows[name]]
    return found + [
        ids for replies in (rows["reply_ids"] if "reply_ids" in rows.column_names else []) for ids in replies
    ]


@pytest.mark.parametrize("kind", ROWS)
def test_the_tokens_of_a_split_are_those_that_are_read(rows_file, tokenizer, kind):
    entries, ranked = rows_file([ROWS[kind]] * 20), "response" not in ROWS[kind]
    rows, stats = prepared(entries, tokenizer, ranked=ranked)
    there = sum(map(len, ids_of(rows)))
    assert stats.tokens == stats.sources[0]["taken"]["tokens"] == there
    one = next(surveys_of("reward" if ranked else "sft", config_for(entries, ranked=ranked), tokenizer))
    assert one.tokens == there
    assert one.cut_tokens == stats.cut_tokens == (sum(rows["length"]) - there if kind == "cut" else 0)
    budget = there // 2
    rows, stats = prepared([entries[0] | {"tokens": budget}], tokenizer, ranked=ranked)
    assert len(rows) == 10
    assert stats.tokens == sum(map(len, ids_of(rows)))


def test_rows_alone_that_are_held_out_are_not_trained_on(rows_file):
    rows = [{"prompt": f"What is {n}?", "response": f"It is {n}."} for n in range(20)]
    train, held_out = rows_file(rows, "train.jsonl"), rows_file(rows, "test.jsonl")
    config = config_for(train, eval_datasets=[DatasetEntry(**held_out[0], rows=3)])
    train, test, stats = load_splits(config, INSTRUCTIONS)
    assert (len(train), len(test), stats["test"].rows) == (17, 3, 3)
    assert stats["train"].dropped == {"also held out": 3}
    assert not {*train["prompt"]} & {*test["prompt"]}


CARD = """---
license: mit
hfkit:
  path: {path}
  files: {{train: rows.jsonl}}
  form: prompt_response
  columns: {{prompt: prompt, response: response}}
  keep: [{{column: {column}, equals: yes}}]
---
"""


@pytest.fixture
def kept_card(rows_file, tmp_path):
    """kept_card(column) -> an entry whose card keeps the rows with "yes" in this column, 15 of 20 in `good`."""

    def make(column: str = "good") -> dict:
        rows_file([{"prompt": f"Who is {n}?", "response": "x", "good": "yes" if n % 4 else "no"} for n in range(20)])
        (tmp_path / "mine.md").write_text(CARD.format(path=tmp_path, column=column).replace("yes", "'yes'"))
        return {"card": str(tmp_path / "mine.md")}

    return make


@pytest.mark.parametrize("stream", [{}, {"streaming": True, "rows": 50}], ids=["file", "stream"])
def test_rows_that_a_card_leaves_out_are_counted(kept_card, tokenizer, stream):
    entry = kept_card() | stream
    rows, stats = prepared([entry], tokenizer)
    left_out = stats.sources[0]["left_out"]  # for a stream, up to the last row that is taken
    assert len(rows) == 15
    assert 1 <= left_out <= 5 if stream else left_out == 5
    assert f"; left out: {left_out} of {entry['card']}" in str(stats)


@pytest.mark.parametrize("stream", [{}, {"streaming": True, "rows": 50}], ids=["file", "stream"])
@pytest.mark.parametrize(
    ("column", "reported"), [("prompt", "no row passes keep"), ("god", "no column 'god' (for keep)")]
)
def test_a_card_that_leaves_nothing_is_refused(kept_card, tokenizer, stream, column, reported):
    with pytest.raises(HfkitError) as error:
        prepared([kept_card(column) | stream], tokenizer)
    assert reported in str(error.value)


@pytest.mark.parametrize(
    "rare", [{"tools": '[{"name": "f"}]'}, slow({"messages": [{"role": "user", "content": "Hi?", "name": "Z"}]})]
)
@pytest.mark.parametrize("seed", mostly_slow(range(3), [0]))
def test_a_column_that_one_row_in_thousands_has_is_streamed(rows_file, rare, seed):
    rows = [{"messages": [{"role": "user", "content": f"Who is {n}?"}], "tools": None} for n in range(3000)]
    entry = rows_file([*rows, rows[0] | rare])[0] | {"streaming": True, "rows": 3001}
    found = load_splits(config_for([entry], seed=seed), INSTRUCTIONS)[0]
    assert len(found) == 3001
    assert found.filter(lambda row: row["tools"] or "Z" in str(row["messages"])).num_rows == 1


WORDS = " ".join(f"red{n}" for n in range(12))


@pytest.mark.parametrize("kind", mostly_slow(["pairs", "rankings"], ["rankings"]))
def test_a_stream_of_replies_fills_its_tokens(rows_file, tokenizer, kind, capsys):
    row = {"prompt": WORDS, "chosen": f"{WORDS} one", "rejected": f"{WORDS} two"}
    if kind == "rankings":
        row = {"prompt": WORDS, "replies": [f"{WORDS} {n}" for n in range(7)], "ranks": [*range(7)]}
    entry = rows_file([row | {"prompt": f"{n} {WORDS}"} for n in range(200)])[0] | {"streaming": True, "tokens": 5000}
    rows, stats = prepared([entry], tokenizer, ranked=True, max_length=500)
    one = max(sum(map(len, ids_of(rows.select([index])))) for index in range(len(rows)))
    assert 5000 - one < stats.tokens <= 5000
    assert "from the stream" not in capsys.readouterr().err


def test_a_stream_that_does_not_fill_its_tokens_is_reported(rows_file, tokenizer, capsys):
    entry = rows_file([{"prompt": f"Who is {n}?", "response": "Ann."} for n in range(9)])[0]
    _, stats = prepared([entry | {"streaming": True, "tokens": 5000}], tokenizer)
    reported = f"the rows of the stream have {stats.tokens} of 5,000 requested tokens"
    assert reported in capsys.readouterr().err
