"""System columns, prompts next to whole conversations, messages as JSON text, roles in other spellings."""

import json

import pytest
from datasets import Dataset
from quick import mostly_slow
from read_rows import load_entry

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.comparisons import COMPARISONS, pair_of
from hfkit.data.forms import INSTRUCTIONS, PROMPTS, TEXT
from hfkit.data.held_out import keys_of
from hfkit.data.messages import normalize_message
from hfkit.data.sources import read_entry
from hfkit.data.splits import load_rows

SYSTEM = {"role": "system", "content": "Be brief."}
USER, MORE = {"role": "user", "content": "Where?"}, {"role": "user", "content": "Sure?"}
YES, NO = {"role": "assistant", "content": "Oslo."}, {"role": "assistant", "content": "Rome."}
BRIEF = {"system": "Be brief."}
CONTEXT = [SYSTEM, USER]


@pytest.fixture
def read(rows_file):
    """read(rows, wanted, **keys of the entry) -> the rows read from a file with these rows."""

    def of(rows: list[dict], wanted: list[str], **keys):
        return read_entry(DatasetEntry(**rows_file(rows)[0], **keys), wanted)

    return of


WITH_SYSTEM = {
    "prompt and response": ({"prompt": "Where?", "response": "Oslo."}, INSTRUCTIONS, {"prompt": CONTEXT}),
    "messages": ({"messages": [USER, YES]}, INSTRUCTIONS, {"messages": [*CONTEXT, YES]}),
    "messages that have it": ({"messages": [*CONTEXT, YES]}, INSTRUCTIONS, {"messages": [*CONTEXT, YES]}),
    "a pair of texts": ({"prompt": "Where?", "chosen": "a", "rejected": "b"}, COMPARISONS, {"prompt": CONTEXT}),
    "a pair of messages": ({"prompt": [USER], "chosen": [YES], "rejected": [NO]}, COMPARISONS, {"prompt": CONTEXT}),
    "a pair of conversations": (
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        COMPARISONS,
        {"chosen": [*CONTEXT, YES]},
    ),
    "a ranking": ({"prompt": "Where?", "replies": ["a", "b"], "ranks": [1, 2]}, COMPARISONS, {"prompt": CONTEXT}),
    "a prompt": ({"prompt": "Where?"}, PROMPTS, {"prompt": CONTEXT}),
    "the prompt of messages": ({"messages": [USER, YES]}, PROMPTS, {"prompt": CONTEXT}),
    "the prompt of a pair": ({"chosen": [USER, YES], "rejected": [USER, NO]}, PROMPTS, {"prompt": CONTEXT}),
}


@pytest.mark.parametrize("kind", WITH_SYSTEM)
def test_a_system_column_is_the_first_message(read, kind):
    row, wanted, expected = WITH_SYSTEM[kind]
    rows = read([BRIEF | row, {"system": ""} | row, {"system": None} | row], wanted).rows
    assert rows[0].items() >= expected.items()
    assert "system" not in rows.column_names
    if kind != "messages that have it":
        (column, messages) = next(iter(expected.items()))
        assert rows[1][column] == rows[2][column] == messages[1:]


def test_a_system_column_is_mapped_streamed_and_read_from_every_file(tmp_path):
    row = {"sys": "Be brief.", "prompt": "Where?", "response": "Oslo."}
    rows = Dataset.from_list([row] * 3)
    rows.to_csv(tmp_path / "a.csv")
    rows.to_parquet(tmp_path / "a.parquet")
    rows.to_json(tmp_path / "a.jsonl")
    for name in ("a.csv", "a.parquet", "a.jsonl"):
        for more in ({}, {"streaming": True, "rows": 3})[: 1 if name == "a.parquet" else 2]:
            entry = DatasetEntry(path=str(tmp_path / name), columns={"system": "sys"}, **more)
            source = read_entry(entry, INSTRUCTIONS)
            assert (source.rows[0]["prompt"], source.unread) == (CONTEXT, [])
            entry = DatasetEntry(path=str(tmp_path / name), **more)
            assert read_entry(entry, INSTRUCTIONS).unread == ["sys"]


def test_sources_with_and_without_a_system_column_join(rows_file):
    plain = {"prompt": "Where?", "response": "Oslo."}
    entries = [*rows_file([BRIEF | plain], "a.jsonl"), *rows_file([plain], "b.jsonl")]
    rows, _ = load_rows("train", [DatasetEntry(**entry) for entry in entries], INSTRUCTIONS)
    assert rows["prompt"][:] == [CONTEXT, [USER]]


def test_a_prompt_is_identified_with_its_system_column(read):
    rows = [read([row], INSTRUCTIONS).rows for row in (BRIEF | {"messages": [USER, YES]}, {"messages": [*CONTEXT, NO]})]
    assert keys_of(rows[0]) == keys_of(rows[1])


def test_content_in_parts_and_further_fields_can_follow_a_system_column(read):
    parts = {"role": "user", "content": [{"type": "text", "text": "Where?"}]}
    assert read([BRIEF | {"messages": [parts, YES]}], INSTRUCTIONS).rows[0]["messages"][0] == SYSTEM
    named = [USER | {"name": "Ann"}, YES | {"name": None}]
    messages = read([BRIEF | {"messages": named}], INSTRUCTIONS).rows[0]["messages"]
    assert [(one["content"], one.get("name")) for one in messages] == [
        ("Be brief.", None),
        ("Where?", "Ann"),
        ("Oslo.", None),
    ]


def test_texts_without_a_prompt_that_a_system_could_precede_are_refused(read):
    with pytest.raises(HfkitError, match=r"the column system needs a prompt, .* columns: {prompt: YOUR_COLUMN}"):
        read([BRIEF | {"chosen": "Where? a", "rejected": "Where? b"}], COMPARISONS)


ASKED = {
    "a system message": ("Where?", [SYSTEM, USER, YES], [SYSTEM, USER, NO], CONTEXT, [YES]),
    "no system message": ("Where?", [USER, YES], [USER, NO], [USER], [YES]),
    "white space": ("Where? ", [SYSTEM, USER, YES], [SYSTEM, USER, NO], CONTEXT, [YES]),
    "a prompt of messages": ([USER], [SYSTEM, USER, YES], [SYSTEM, USER, NO], CONTEXT, [YES]),
    "the last question": ("Sure?", [USER, NO, MORE, YES], [USER, NO, MORE, NO], [USER, NO, MORE], [YES]),
    "the first question": ("Where?", [USER, YES, MORE, YES], [USER, YES, MORE, NO], [USER], [YES, MORE, YES]),
    "a system message of the prompt": ([SYSTEM, USER], [USER, YES], [USER, NO], CONTEXT, [YES]),
    "replies alone": ("Where?", [YES], [NO], [USER], [YES]),
    "a system message alone": ([SYSTEM], [SYSTEM, USER, YES], [SYSTEM, USER, NO], [SYSTEM], [USER, YES]),
}

QUICK = ["a system message", "a prompt of messages", "the first question", "a system message alone"]
SHARED = {"the first question": [YES, MORE], "a system message alone": [USER]}
"""Turns after the prompt that both responses begin with."""


@pytest.mark.parametrize("kind", mostly_slow(ASKED, QUICK))
def test_a_prompt_next_to_whole_conversations_is_asked_once(read, kind):
    prompt, chosen, rejected, context, reply = ASKED[kind]
    row = read([{"prompt": prompt, "chosen": chosen, "rejected": rejected}], COMPARISONS).rows[0]
    assert (row["prompt"], row["chosen"]) == (context, reply)
    assert pair_of(row)[0] == context + SHARED.get(kind, [])
    ranking = {"prompt": prompt, "replies": [chosen, rejected], "ranks": [1, 2]}
    row = read([ranking], COMPARISONS).rows[0]
    assert (row["prompt"], row["replies"][0]) == (context, reply)
    row = read([{"prompt": prompt, "completion": chosen}], INSTRUCTIONS).rows[0]
    assert (row["prompt"], row["completion"]) == (context, reply)
    assert read([{"prompt": prompt, "chosen": chosen, "rejected": rejected}], PROMPTS).rows[0]["prompt"] == context


@pytest.mark.parametrize("rejected", [[SYSTEM | {"content": "Be long."}, USER, NO], [MORE, NO]])
def test_conversations_that_ask_something_else_stay_whole(read, rejected):
    row = {"prompt": "Where?", "chosen": [SYSTEM, USER, YES], "rejected": rejected}
    found = read([row], COMPARISONS).rows[0]
    assert (found["chosen"], found["rejected"]) == (row["chosen"], rejected)


CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"from": "Oslo"}}}]}
SPELLED = {
    "as JSON": ({"messages": json.dumps([USER, YES])}, {}),
    "as JSON, with calls": ({"messages": json.dumps([USER, CALL, YES])}, {}),
    "title case": (
        {"messages": [USER | {"role": "User"}, YES | {"role": "Assistant"}]},
        {"User": "user", "Assistant": "assistant"},
    ),
    "human and gpt": (
        {"messages": [USER | {"role": "human"}, YES | {"role": "gpt"}]},
        {"human": "user", "gpt": "assistant"},
    ),
    "from and value": (
        {"messages": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Oslo."}]},
        {"human": "user", "gpt": "assistant"},
    ),
    "from and value as JSON": ({"messages": json.dumps([{"from": "user", "value": "Where?"}, YES])}, {}),
    "beside calls": (
        {"messages": [USER | {"role": "USER"}, {"content": '\n, "role": "gpt"', **CALL}, YES]},
        {"USER": "user"},
    ),
}


@pytest.mark.parametrize("kind", SPELLED)
def test_messages_in_other_shapes_are_read(read, kind):
    row, roles = SPELLED[kind]
    source = read([row] * 3, INSTRUCTIONS)
    messages = source.rows[1]["messages"]
    assert (messages[0], messages[-1], source.roles) == (USER, YES, roles)
    if len(messages) == 3:
        assert normalize_message(messages[1])["tool_calls"][0]["function"]["arguments"] == {"from": "Oslo"}
    prompts = read([row] * 3, PROMPTS).rows[0]["prompt"]
    assert prompts[0] == USER


def test_replies_and_prompts_as_json_are_read(read):
    texts = {"prompt": json.dumps(CONTEXT), "chosen": json.dumps([YES]), "rejected": json.dumps([NO])}
    expected = {"prompt": CONTEXT, "chosen": [YES], "rejected": [NO]}
    assert read([texts], COMPARISONS).rows[0] == expected
    replies = {"prompt": "Where?", "replies": [json.dumps([YES]), json.dumps([NO])], "scores": [1, 0]}
    assert read([replies], COMPARISONS).rows[0]["replies"] == [[YES], [NO]]


@pytest.mark.parametrize("text", ["[1, 2]", "[]", '{"role": "user"}', "[not JSON]", '["a"]'])
def test_text_that_is_not_the_json_of_messages_stays_text(read, text):
    rows = [{"prompt": text, "response": text}, {"prompt": json.dumps([USER]), "response": "b"}]
    assert read(rows, INSTRUCTIONS).rows.to_list() == rows


def test_one_row_that_is_not_json_is_dropped_and_not_the_others(read):
    rows = read([{"messages": json.dumps([USER, YES])}, {"messages": "hello"}], INSTRUCTIONS).rows
    assert rows["messages"][:] == [[USER, YES], [None]]


def test_unread_columns_are_named_and_those_that_may_matter_with_a_remedy(rows_file, capsys):
    row = {"prompt": "Where?", "response": "Oslo.", "id": 1, "system_prompt": "x", "context": "y", "prompt_id": "z"}
    _, stats = load_rows("train", [DatasetEntry(**rows_file([row])[0])], INSTRUCTIONS)
    printed = capsys.readouterr()
    assert "rows.jsonl: columns not read: id, system_prompt, context, prompt_id\n" in printed.out
    assert "input: system_prompt, context: map the columns" in printed.err
    assert 'columns: {system: system_prompt, prompt: "{context}\\n\\n{prompt}"}' in printed.err
    assert stats.sources[0]["unread"] == ["id", "system_prompt", "context", "prompt_id"]


def test_columns_that_are_read_are_not_named(read):
    assert read([{"text": "a", "url": "b"}], TEXT).unread == ["url"]
    row = {"prompt": "a", "answer": "b", "stars": 1}
    entry = {"columns": {"prompt": "{prompt} {answer}"}}
    assert read([row], PROMPTS, **entry).unread == ["stars"]


UNKNOWN = {"situation": "Add.", "task": "1, 2", "chosen": "The sum is 3.", "rejected": "The sum is 4."}


@pytest.mark.parametrize("wanted", [COMPARISONS, PROMPTS], ids=["reward", "ppo"])
@pytest.mark.parametrize("row", [UNKNOWN, UNKNOWN | {"chosen": [YES], "rejected": [NO]}], ids=["text", "messages"])
def test_a_prompt_is_not_guessed_where_a_column_may_hold_it(read, row, wanted):
    with pytest.raises(HfkitError, match=r'it may be in situation, task.*{prompt: "{situation}\\n\\n{task}"}'):
        read([row], wanted)
    mapped = read([UNKNOWN], wanted, columns={"prompt": "{situation}\n\n{task}"}).rows
    assert mapped[0]["prompt"] == "Add.\n\n1, 2"


def test_a_prompt_in_both_replies_is_read_if_mapped_or_if_no_other_column_may_hold_it(read, rows_file):
    mapped = {"columns": {"chosen": "chosen", "rejected": "rejected"}}
    assert load_entry(DatasetEntry(**rows_file([UNKNOWN])[0], **mapped), PROMPTS)[0]["prompt"] == "The sum is"
    context = {"prompt_id": "x", "source": "y", "chosen": [USER, YES], "rejected": [USER, NO]}
    assert read([context], PROMPTS).rows[0]["prompt"] == [USER]
    assert read([context | {"question": "Where?"}], PROMPTS).unread == ["prompt_id", "source", "question"]
