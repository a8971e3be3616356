"""Which columns of a source are read: mapped ones decide the form; columns of a wrong kind are reported."""

import json

import datasets
import pytest
from read_rows import load_entry

from hfkit.config.fields import DatasetEntry
from hfkit.config.stages import PPOConfig, SFTConfig
from hfkit.core.errors import HfkitError
from hfkit.data.comparisons import COMPARISONS
from hfkit.data.forms import INSTRUCTIONS, PROMPTS, TEXT, encode_prompts
from hfkit.data.held_out import row_key
from hfkit.data.sources import read_entry
from hfkit.data.splits import SplitStats, load_splits

USER, ANSWER = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Oslo."}
CHAT = [USER, ANSWER]
LONGER = [*CHAT, {"role": "user", "content": "And Ada?"}, {"role": "assistant", "content": "Rome."}]
OWN = {"messages": CHAT, "text": "all of it", "prompt": "its own", "q": "Where?", "a": "Oslo."}
RANKED = {"prompt": "Where?", "chosen": "its", "rejected": "own", "replies": ["a", "b"], "scores": [1, 0]}


@pytest.fixture
def entry_of(rows_file):
    """entry_of(row, columns) -> an entry of a file with nine such rows."""

    def make(row: dict, columns: dict | None = None) -> DatasetEntry:
        return DatasetEntry(path=rows_file([row] * 9)[0]["path"], columns=columns)

    return make


@pytest.fixture
def card_of(tmp_path):
    """card_of(row, form, columns, **others) -> an entry of a card whose file has nine such rows."""

    def make(row: dict, form: str, columns: dict, file: str = "rows.jsonl", **others) -> DatasetEntry:
        rows = datasets.Dataset.from_list([row] * 9)
        write = {"jsonl": rows.to_json, "csv": rows.to_csv, "parquet": lambda path: to_pandas_parquet(rows, path)}
        write[file.rpartition(".")[2]](tmp_path / file)
        block = {"path": str(tmp_path), "files": {"train": file}, "form": form, "columns": columns, **others}
        (tmp_path / "mine.md").write_text(f"---\n{json.dumps({'license': 'mit', 'hfkit': block})}\n---\n\n# Mine\n")
        return DatasetEntry(card=str(tmp_path / "mine.md"))

    return make


def to_pandas_parquet(rows: datasets.Dataset, path) -> None:
    """Write text as pandas 3 does: as `large_string`."""
    large = {name: datasets.Value("large_string") for name in rows.column_names}
    rows.cast(datasets.Features(large)).to_parquet(path)


@pytest.mark.parametrize(
    ("row", "columns", "wanted", "read"),
    [
        (OWN, {"prompt": "q", "response": "a"}, INSTRUCTIONS, {"prompt": "Where?", "response": "Oslo."}),
        (OWN, {"prompt": "q", "completion": "a"}, INSTRUCTIONS, {"prompt": "Where?", "completion": "Oslo."}),
        (OWN, {"text": "a"}, INSTRUCTIONS, {"text": "Oslo."}),
        (OWN | {"conv": LONGER}, {"messages": "conv"}, INSTRUCTIONS, {"messages": LONGER}),
        (OWN | {"tools": "[]"}, {"text": "a"}, INSTRUCTIONS, {"text": "Oslo.", "tools": "[]"}),
        (OWN | {"response": "r"}, {"prompt": "q"}, INSTRUCTIONS, {"prompt": "Where?", "response": "r"}),
        (RANKED | {"r": ["c", "d"]}, {"replies": "r"}, COMPARISONS, RANKED | {"replies": ["c", "d"]}),
        (RANKED | {"r": [2, 1]}, {"ranks": "r"}, COMPARISONS, RANKED | {"ranks": [2, 1]}),
        (RANKED | {"c": "x"}, {"chosen": "c"}, COMPARISONS, RANKED | {"chosen": "x"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_the_columns_that_are_mapped_decide_the_form(entry_of, row, columns, wanted, read):
    rows = load_entry(entry_of(row, columns), wanted)
    left_out = {"replies": ("chosen", "rejected"), "ranks": ("chosen", "rejected", "scores")}
    left_out["chosen"] = ("replies", "scores")
    read = {key: value for key, value in read.items() if key not in left_out.get(next(iter(columns)), ())}
    assert rows[0] == read


def test_the_columns_of_a_card_decide_the_form(card_of):
    entry = card_of(OWN, "prompt_response", {"prompt": "q", "response": "a"})
    assert load_entry(entry, INSTRUCTIONS)[0] == {"prompt": "Where?", "response": "Oslo."}
    assert load_entry(entry, PROMPTS)[0] == {"prompt": "Where?"}


@pytest.mark.parametrize(
    ("row", "columns", "asked"),
    [
        ({"prompt": "Where?", "messages": CHAT}, None, "Where?"),
        ({"messages": LONGER}, None, LONGER[:3]),
        ({"talk": LONGER, "prompt": "Where?"}, {"messages": "talk"}, LONGER[:3]),
        ({"chosen": CHAT, "rejected": [USER, ANSWER | {"content": "Rome."}]}, None, [USER]),
        ({"chosen": "The sky is blue", "rejected": "The sky is red"}, None, "The sky is"),
        ({"prompt": "Where?", "chosen": "Oslo.", "rejected": "Rome."}, None, "Where?"),
    ],
)
def test_ppo_reads_the_prompts_of_each_form_without_a_card(entry_of, tokenizer, row, columns, asked):
    rows = load_entry(entry_of(row | {"answer": "Oslo."}, columns), PROMPTS, ["answer"])
    assert rows[0] == {"prompt": asked, "answer": "Oslo."}
    encoded = encode_prompts(rows, tokenizer, SplitStats("train", rows=9), PPOConfig(output_dir="unused"))
    assert len(encoded) == 9


def test_a_row_is_held_out_by_what_is_trained_on():
    """SFT trains on `messages` if a row has them, whatever its `prompt`."""
    assert row_key({"prompt": "Where?", "messages": LONGER}) == row_key({"messages": LONGER})
    assert row_key({"prompt": "Where?", "messages": []}) == row_key({"prompt": "Where?"})


def test_conversations_with_a_prompt_are_found_among_held_out_ones_without(rows_file):
    train = rows_file([{"prompt": "Where?", "messages": LONGER}, {"prompt": "Who?", "messages": CHAT}], "train.jsonl")
    test = rows_file([{"messages": LONGER}], "test.jsonl")
    entries = {"datasets": [DatasetEntry(**train[0])], "eval_datasets": [DatasetEntry(**test[0])]}
    rows, _, stats = load_splits(SFTConfig(output_dir="unused", **entries), INSTRUCTIONS)
    assert (rows["messages"][:], stats["train"].dropped) == ([CHAT], {"also held out": 1})


@pytest.mark.parametrize("name", ["input-text", "input text", "eingabe.ä"])
def test_a_text_may_name_any_column(entry_of, name):
    columns = {"prompt": f"{{q}}\n\n{{{name}}}", "response": "a"}
    assert (
        load_entry(entry_of({"q": "Say", "a": "ok", name: "hello"}, columns), INSTRUCTIONS)[0]["prompt"]
        == "Say\n\nhello"
    )
    with pytest.raises(HfkitError, match=f"no column '{name}'"):
        load_entry(entry_of({"q": "Say", "a": "ok"}, columns), INSTRUCTIONS)


ANSWERS = {"prompt": "Where?", "s": "x", "n": 1, "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]}


@pytest.mark.parametrize(
    ("columns", "reported"),
    [
        ({"replies": "answers[].text"}, r"{replies: 'answers\[\].text'}: 'answers' is not a list of items with 'text'"),
        (
            {"replies": "s[].text"},
            r"{replies: 's\[\].text'}: 's' is not a list of items with 'text': Value\('string'\)",
        ),
        ({"margin": "n - s"}, r"{margin: 'n - s'}: a difference needs numbers, but 's' holds Value\('string'\)"),
        ({"margin": "n - answers"}, r"a difference needs numbers, but 'answers' holds List"),
    ],
)
def test_columns_of_another_kind_than_an_expression_needs_are_reported(entry_of, columns, reported):
    with pytest.raises(
        HfkitError, match=r"rows\.jsonl: columns: " + reported if reported.startswith("{") else reported
    ):
        load_entry(entry_of(ANSWERS, columns), COMPARISONS)


def test_an_empty_list_and_a_missing_number_are_none(entry_of):
    row = {"prompt": "Where?", "n": 1.5, "m": None, "answers": [None, {"answer": "b"}]}
    columns = {"replies": "answers[].answer", "prompt": "{prompt}"}
    assert load_entry(entry_of(row, columns), COMPARISONS)[0] == {"prompt": "Where?", "replies": [None, "b"]}
    assert load_entry(entry_of(row, {"margin": "n - m"}), COMPARISONS)["margin"] == [None] * 9


CONVERSATION, PAIR = {"messages": "messages"}, {"chosen": "chosen", "rejected": "rejected"}
GROUPED = {"prompt": "prompt", "replies": "response", "scores": "score"}
ONE = {"prompt": "\n\nHuman: Hi\n\nAssistant:", "response": "a", "score": 1}
UNFIT = {
    "turns that are messages": (
        ({"messages": CHAT}, "messages", CONVERSATION),
        {"convert": ["sharegpt"]},
        r"mine\.md: convert: sharegpt reads turns with from and value, but 'messages' holds List.*: remove sharegpt",
    ),
    "turns that are text": (
        ({"messages": "hello"}, "messages", CONVERSATION),
        {"convert": ["sharegpt"]},
        r"'messages' holds Value\('string'\)",
    ),
    "turns that are not there": (
        ({"chosen": "a", "rejected": "b"}, "preference", PAIR),
        {"convert": ["shared_prompt", "sharegpt"]},
        "convert: sharegpt reads the column 'messages', but the columns are",
    ),
    "text against a number": (
        ({"messages": CHAT, "stars": "3"}, "messages", CONVERSATION),
        {"keep": [{"column": "stars", "at_least": 3}]},
        r"mine\.md: keep: the column 'stars' holds '3': at_least and at_most need numbers",
    ),
    "conditions that no row meets": (
        ({"messages": CHAT, "stars": "3"}, "messages", CONVERSATION),
        {"keep": [{"column": "stars", "equals": 3}]},
        r"mine\.md: no row passes keep",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_card_that_does_not_fit_its_rows_is_reported(card_of, kind):
    (row, form, columns), others, reported = UNFIT[kind]
    wanted = INSTRUCTIONS if form == "messages" else COMPARISONS
    with pytest.raises(HfkitError, match=reported):
        load_entry(card_of(row, form, columns, **others), wanted)


@pytest.mark.parametrize("split", ["datasets", "eval_datasets"])
def test_a_source_of_no_rows_is_refused_in_either_split(card_of, entry_of, split):
    row, keep = {"messages": CHAT, "source": "x"}, [{"column": "source", "equals": "y"}]
    entries = {"datasets": [entry_of(row)], "eval_datasets": [entry_of(row)]}
    entries[split] = [card_of(row, "messages", CONVERSATION, file="none.jsonl", keep=keep)]
    with pytest.raises(HfkitError, match="no row passes keep"):
        load_splits(SFTConfig(output_dir="unused", **entries), INSTRUCTIONS)


@pytest.mark.parametrize("file", ["rows.csv", "rows.parquet"])
def test_transcripts_are_read_from_every_reader(card_of, file):
    row = {"chosen": "\n\nHuman: Hi\n\nAssistant: Oslo.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."}
    entry = card_of(row, "preference", PAIR, file=file, convert=["transcript", "shared_prompt"])
    assert load_entry(entry, COMPARISONS)[0] == {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [ANSWER],
        "rejected": [ANSWER | {"content": "No."}],
    }


def test_rows_are_grouped_by_text_or_messages_next_to_columns_of_lists(card_of):
    for convert in (["group_by_prompt", "transcript"], ["transcript", "group_by_prompt"]):
        entry = card_of(ONE | {"extra": [{"a": 1}]}, "ranking", GROUPED, convert=convert)
        expected = {"prompt": [{"role": "user", "content": "Hi"}], "replies": ["a"] * 9, "scores": [1] * 9}
        assert load_entry(entry, COMPARISONS)[0] == expected


def test_a_card_can_map_a_system_column(card_of):
    row = {"q": "Where?", "a": "Oslo.", "sys": "Be brief."}
    entry = card_of(row, "prompt_response", {"prompt": "q", "response": "a", "system": "sys"})
    context = [{"role": "system", "content": "Be brief."}, USER]
    assert load_entry(entry, INSTRUCTIONS)[0] == {"prompt": context, "response": "Oslo."}
    assert load_entry(entry, PROMPTS)[0] == {"prompt": context}
    assert "system" not in load_entry(card_of(row, "text", {"text": "{q} {a}"}), TEXT).column_names


def test_rows_of_one_prompt_are_grouped_by_their_system_message_too(rows_file):
    rows = [ONE | {"prompt": "Hi", "system": system} for system in ("Be brief.", "Be long.", "Be brief.")]
    entry = DatasetEntry(**rows_file(rows)[0], columns=GROUPED, convert=["group_by_prompt"])
    found = load_entry(entry, COMPARISONS)
    assert [(row["prompt"][0]["content"], row["replies"]) for row in found] == [
        ("Be brief.", ["a", "a"]),
        ("Be long.", ["a"]),
    ]


def test_rows_of_one_prompt_are_grouped_by_their_tools_too(rows_file):
    tools = '[{"type": "function", "function": {"name": "weather"}}]'
    rows = [{"prompt": "Hi", "completion": text, "label": text == "a", "tools": tools} for text in ("a", "b")]
    plain = {"prompt": "Hi", "completion": "c", "label": True}
    found = load_entry(DatasetEntry(**rows_file([*rows, plain, plain | {"label": False}])[0]), COMPARISONS)
    assert [(row["replies"], row["tools"]) for row in found] == [(["a", "b"], tools), (["c", "c"], None)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("prompt", ["question", "{question}", None])
def test_a_column_that_columns_leaves_out_is_not_warned_about(tmp_path, capsys, suffix, prompt):
    row, file = {"question": "Q", "instruction": "I", "answer": "A"}, tmp_path / f"rows.{suffix}"
    file.write_text("question,instruction,answer\nQ,I,A\n" if suffix == "csv" else json.dumps(row))
    columns = {"response": "answer"} | ({"prompt": prompt} if prompt else {"prompt": "{instruction}{question}"})
    source = read_entry(DatasetEntry(path=str(file), columns=columns), INSTRUCTIONS)
    source.report()
    printed = capsys.readouterr()
    assert ("columns not read: instruction" in printed.out) == bool(prompt)
    assert printed.err == ""
