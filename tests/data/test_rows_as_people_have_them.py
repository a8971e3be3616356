"""Rows in common shapes: each is read correctly and unchanged, or refused with a remedy."""

import json
from pathlib import Path

import pytest
from quick import mostly_slow
from read_rows import load_entry

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.comparisons import COMPARISONS
from hfkit.data.conversions import sharegpt
from hfkit.data.forms import INSTRUCTIONS, PROMPTS, TEXT, instruction_row
from hfkit.data.messages import normalize_message
from hfkit.data.sources import read_entry

PAD = "x" * 2000
FIRST_CHUNK = 6000  # rows: more than the 10 MiB from which the reader of `datasets` infers types
STREAMS = pytest.mark.parametrize("stream", [{}, {"streaming": True, "rows": 20_000}], ids=["file", "stream"])


def user(text) -> dict:
    return {"role": "user", "content": text}


def says(text, **fields) -> dict:
    return {"role": "assistant", "content": text, **fields}


@pytest.fixture
def read(tmp_path):
    def of(content, wanted=INSTRUCTIONS, name="a.jsonl", **entry):
        path = tmp_path / name
        if not isinstance(content, str | bytes):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_entry(DatasetEntry(path=str(path), **entry), wanted)

    return of


LATE = {
    "text after dates": ("2024-01-01", "tomorrow", "2024-01-01", "tomorrow"),
    "text after numbers": (7, "007", "7", "007"),
    "text after nothing": (None, "seven", None, "seven"),
    "a long number after text": ("a", 10**30, "a", str(10**30)),
}


@pytest.mark.parametrize("stream", mostly_slow([{}, {"streaming": True, "rows": 20_000}], [{}]), ids=["file", "stream"])
@pytest.mark.parametrize("kind", mostly_slow(LATE, ["text after numbers"]))
def test_text_late_in_a_long_file_is_read_unchanged(read, kind, stream):
    first, last, *expected = LATE[kind]
    rows = [{"prompt": PAD, "response": first}] * FIRST_CHUNK + [{"prompt": "q", "response": last, "id": "x"}]
    found = read(rows, **stream).rows
    replies = [row["response"] for row in found if row["prompt"] == "q"] + [found[0]["response"]]
    assert len(found) == FIRST_CHUNK + 1 and {*replies} == {*expected}


@pytest.mark.slow
@STREAMS
def test_messages_late_in_a_long_file_are_messages(read, stream):
    rows = [{"prompt": PAD, "response": "007"}] * FIRST_CHUNK + [{"prompt": [user("q")], "response": [says("null")]}]
    found = [row for row in read(rows, **stream).rows if row["prompt"][-1]["content"] == "q"]
    assert found == [{"prompt": [user("q")], "response": [says("null")]}]
    parts = [{"type": "text", "text": "q"}]
    rows = [{"messages": [user(PAD), says("a")]}] * FIRST_CHUNK + [{"messages": [user(parts), says("b", weight=0)]}]
    found = [row["messages"] for row in read(rows, **stream).rows]
    assert [user(parts), says("b", weight=0)] in found and found.count([user(PAD), says("a")]) == FIRST_CHUNK


def test_arguments_of_calls_have_the_keys_and_values_that_were_written(read):
    given = [{"city": "Oslo"}, {"n": 10**25, "flag": None, "x": 0.12345678901234567}, "{}", ["a"]]
    calls = [[{"function": {"name": "f", "arguments": one}}] for one in given]
    found = read([{"messages": [user("q"), says("", tool_calls=call), says("a")]} for call in calls]).rows
    read_back = [normalize_message(row["messages"][1])["tool_calls"][0]["function"]["arguments"] for row in found]
    assert read_back == [*given[:2], {}, ["a"]]


def test_replies_of_texts_and_messages_and_single_messages_are_read(read):
    rows = [{"prompt": "q", "replies": ["007", says("b"), [says("c")]], "scores": [1, 2, 3]}]
    expected = [[says("007")], [says("b")], [says("c")]]
    assert read(rows, COMPARISONS).rows[0]["replies"] == expected
    rows = [{"prompt": "q", "replies": [says("a"), says("b")], "scores": [1, 2]}]
    assert read(rows, COMPARISONS).rows[0]["replies"] == [[says("a")], [says("b")]]
    turn = {"from": "gpt", "value": "a"}
    rows = [{"prompt": [{"from": "human", "value": "q"}], "chosen": turn, "rejected": turn | {"value": "b"}}]
    assert read(rows, COMPARISONS).rows[0] == {"prompt": [user("q")], "chosen": [says("a")], "rejected": [says("b")]}


JSON_FILES = {
    "a list of texts": ('["007", "2024-01-01"]', TEXT, [{"text": "007"}, {"text": "2024-01-01"}]),
    "a list after a blank line": ('\n [{"text": "007"}, {"text": "2024-01-01"}]', TEXT, None),
    "objects of several lines": ('{\n"text": "007"\n}\n{\n"text": "2024-01-01"}', TEXT, None),
    "a byte order mark": ('\ufeff{"text": "007"}\r\n\r\n{"text": "2024-01-01"}\r\n', TEXT, None),
}


@pytest.mark.parametrize("kind", JSON_FILES)
def test_json_in_other_layouts_is_read_unchanged(read, kind):
    content, wanted, expected = JSON_FILES[kind]
    expected = expected or JSON_FILES["a list of texts"][2]
    assert read(content, wanted, name="a.json").rows.to_list() == expected


def test_a_text_file_keeps_its_lines_without_a_byte_order_mark(read):
    rows = read(b"\xef\xbb\xbfone \r\n007\x0cx\xc2\x85y\n  \n", TEXT, name="a.txt").rows
    assert rows["text"][:] == ["one ", "007\x0cx\x85y", "  "]


REFUSED_JSON = {
    "a key twice": '{"prompt": "2024-01-01", "response": "a", "response": "b"}\n',
    "values in too many others": '{"prompt": "q", "x": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
}


@pytest.mark.parametrize("kind", REFUSED_JSON)
def test_ambiguous_json_is_refused(read, kind):
    with pytest.raises(HfkitError, match=r"the key 'response' twice|line 1: its values are nested"):
        read(REFUSED_JSON[kind])


def test_json_messages_next_to_messages_are_messages(read):
    rows = [{"prompt": "q", "chosen": json.dumps([says("a")]), "rejected": [says("b")]}]
    rows += [{"prompt": "q", "chosen": [says("c")], "rejected": [says("d")]}]
    assert read(rows, COMPARISONS).rows["chosen"][:] == [[says("a")], [says("c")]]


REFUSED_CSV = {
    "more cells than names": ("prompt,response\na,b,c\n", "more cells than its header has names"),
    "semicolons": ("prompt;response\na, b;c\n", "separated by ';': save it with commas"),
    "tabs": ("prompt\tresponse\na\tb\n", r"separated by '\\t'"),
    "Latin-1": ("prompt,response\na,b\na,café\n".encode("latin-1"), "line 3: UnicodeDecodeError.* 0xe9"),
}


@STREAMS
@pytest.mark.parametrize("kind", REFUSED_CSV)
def test_a_csv_that_would_be_read_as_other_columns_is_refused(read, kind, stream):
    content, reported = REFUSED_CSV[kind]
    with pytest.raises(HfkitError, match=reported):
        read(content, name="a.csv", **stream)


def test_messages_as_python_prints_them_are_read_and_others_refused(read):
    cell = str([user("it's"), says('"a"')]).replace('"', '""')
    assert read(f'messages\n"{cell}"\n', name="a.csv").rows["messages"][0] == [user("it's"), says('"a"')]
    cell = "[{'content': 'q', 'role': 'user'}\n {'content': 'a', 'role': 'assistant'}]"  # as NumPy prints them
    with pytest.raises(HfkitError, match="'chosen' look like messages: write messages as lists or as JSON"):
        read(f'prompt,chosen,rejected\nq,"{cell}","{cell}"\n', COMPARISONS, name="a.csv")


@pytest.mark.parametrize("field", ["weight", "train", "training", "trainable", "loss"])
@pytest.mark.parametrize("value", [0, False])
def test_a_message_that_is_marked_is_not_trained_on(read, tokenizer, field, value):
    turns = [user("q"), says("no", **{field: value}), user("r"), says("yes", **{field: type(value)(1)})]
    names = {"role": "from", "content": "value"}
    as_sharegpt = [{names.get(name, name): item for name, item in turn.items()} for turn in turns]
    for messages in (turns, as_sharegpt):
        encoded = instruction_row(read([{"messages": messages}]).rows[0], tokenizer, 512)
        trained = [token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label >= 0]
        assert tokenizer.decode(trained, skip_special_tokens=True).strip() == "yes"


@pytest.mark.parametrize("mark", [{"weight": 0.5}, {"train": "no"}, {"train_detail": [{"begin_offset": 0}]}])
def test_an_invalid_mark_drops_the_row(read, tokenizer, mark):
    row = read([{"messages": [user("q"), says("a", **mark), user("r"), says("b")]}]).rows[0]
    assert instruction_row(row, tokenizer, 512)["dropped"].startswith("with a message")


def test_the_sharegpt_conversion_keeps_weights():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 0}]
    assert sharegpt({"messages": turns}) == {"messages": [user("q"), says("a", weight=0)]}


TURNS = [user("q"), says("a")]
UNREAD = {
    "prompt beside messages": (
        {"messages": [user("q"), says("a")], "prompt": "p"},
        INSTRUCTIONS,
        {"prompt": "messages"},
    ),
    "text beside messages": ({"messages": [user("q"), says("a")], "text": "t"}, INSTRUCTIONS, {"text": "messages"}),
    "text beside prompt": ({"prompt": "q", "response": "a", "text": "t"}, INSTRUCTIONS, {"text": "prompt"}),
    "two replies": ({"prompt": "q", "response": "a", "completion": "b"}, INSTRUCTIONS, {"completion": "response"}),
    "messages beside a prompt": ({"messages": TURNS, "prompt": "p"}, PROMPTS, {"messages": "prompt"}),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_a_column_that_another_overrides_is_named(read, kind):
    row, wanted, expected = UNREAD[kind]
    source = read([row] * 2, wanted)
    assert (source.shadowed, source.stats()["unread"]) == (expected, [*expected])
    ((name, first),) = expected.items()
    assert any(f"{name}: each row is read from its {first}" in note for note in source.notes())
    assert name not in source.rows.column_names


def test_a_column_that_some_rows_are_read_from_is_read(read):
    rows = [{"messages": [user("q"), says("a")], "text": "t"}, {"messages": [], "text": "u"}]
    source = read(rows)
    assert not source.shadowed and source.rows["text"][:] == ["t", "u"]


def test_the_advice_for_unread_columns_keeps_what_is_read(read):
    notes = read([{"prompt": "q", "context": "c"}], PROMPTS).notes()
    assert 'columns: {prompt: "{context}\\n\\n{prompt}"}' in notes[1]
    notes = read([{"text": "q", "title": "c"}], TEXT).notes()
    assert 'columns: {text: "{title}\\n\\n{text}"}' in notes[1]
    notes = read([{"messages": TURNS, "context": "c"}]).notes()
    assert notes[1].endswith("context: put all text that the model should read into the messages")
    rows = read([{"prompt": "q", "context": "c"}], PROMPTS, columns={"prompt": "{context}\n\n{prompt}"}).rows
    assert rows["prompt"][:] == ["c\n\nq"]


def test_replies_that_begin_with_their_prompt_ask_it_once(read):
    rows = [
        {"prompt": f"What is {n}?", "chosen": f"What is {n}? It is.", "rejected": f"What is {n}? No."} for n in "12"
    ]
    source = read(rows, COMPARISONS)
    assert source.rows[1] == {"prompt": "What is 2?", "chosen": "It is.", "rejected": "No."}
    assert source.repeated == ["chosen", "rejected"] and "which is removed from it" in source.notes()[-1]
    kept = read([*rows, {"prompt": "a b", "chosen": "c", "rejected": "a b c"}], COMPARISONS)
    assert kept.rows[0] == rows[0] and not kept.repeated
    assert read([{"prompt": "An old", "response": "An older man"}]).rows["response"][:] == ["An older man"]


def test_unknown_roles_are_named(read):
    rows = [{"messages": [user("q"), {"role": "function_call", "content": "f"}, {"role": "Chatbot", "content": "a"}]}]
    source = read(rows)
    assert source.roles == {"function_call": "function_call", "Chatbot": "assistant"}
    assert "unknown roles, passed to the chat template and not trained on: function_call" in source.notes()


REFUSED = {
    "a system that is no text": ([{"system": 5, "prompt": "q", "response": "a"}], {}, "'system' holds .*int64.*text"),
    "systems in lists": ([{"system": ["S"], "prompt": "q", "response": "a"}], {}, "'system' holds List.*text"),
    "a list in braces": (
        [{"prompt": "q", "history": [["a", "b"]], "response": "a"}],
        {"columns": {"prompt": "{history}\n{prompt}", "response": "response"}},
        "braces need text, but 'history' holds List",
    ),
    "texts in lists": ([{"text": ["a", "b"]}], {}, "'text' holds List.*expected text"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_values_that_would_be_printed_as_python_are_refused(read, kind):
    rows, entry, reported = REFUSED[kind]
    with pytest.raises(HfkitError, match=reported):
        read(rows, **entry)


NAMED = {
    "capitals": ({"Prompt": "q", "Response": "a"}, INSTRUCTIONS, "{prompt: Prompt, response: Response}"),
    "two answers": (
        {"question": "q", "answer": "a", "solution": "s"},
        INSTRUCTIONS,
        "{prompt: question, response: answer}",
    ),
    "a problem": (
        {"problem": "q", "answer": "a", "solution": "s"},
        INSTRUCTIONS,
        "{prompt: problem, response: answer}",
    ),
    "conversations": ({"conversations": [], "id": 1}, INSTRUCTIONS, "{messages: conversations}"),
    "documents": ({"content": "c"}, TEXT, "{text: content}"),
    "alpaca in capitals": (
        {"Instruction": "i", "Input": "", "Output": "o"},
        INSTRUCTIONS,
        '{prompt: "{Instruction}\\n\\n{Input}", response: Output}',
    ),
    "others": ({"a": "c"}, TEXT, "{text: YOUR_COLUMN}"),
    "other instructions": ({"a": "c"}, INSTRUCTIONS, "{prompt: YOUR_COLUMN, response: YOUR_COLUMN}"),
    "an answer alone": ({"a": "c", "output": "o"}, INSTRUCTIONS, "{prompt: YOUR_COLUMN, response: output}"),
}


@pytest.mark.parametrize("kind", NAMED)
def test_columns_under_other_names_are_refused_with_their_mapping(read, kind):
    row, wanted, mapping = NAMED[kind]
    with pytest.raises(HfkitError) as refused:
        read([row], wanted)
    assert str(refused.value).endswith(f"columns: {mapping}}}]")
    assert "chat_template_kwargs" not in str(refused.value)


def test_a_path_in_the_home_folder_is_read_from_python_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Path(tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    assert load_entry(DatasetEntry(path="~/a.jsonl"), TEXT)["text"][:] == ["a"]


@STREAMS
def test_a_missing_text_that_pandas_wrote_as_nan_is_read_as_missing(read, stream):
    content = '{"prompt": "a", "response": NaN}\n{"prompt": "b", "response": "c"}\n'
    assert [row["response"] for row in read(content, **stream).rows] == [None, "c"]
    turns = [user("a"), says("b")]
    content = f'{{"messages": {json.dumps(turns)}}}\n{{"messages": NaN}}\n'
    found = [row["messages"] for row in read(content, name="b.jsonl", **stream).rows]
    assert found[0] == turns and not found[1]


def test_one_object_with_a_list_for_each_column_is_refused_with_what_to_write(read):
    for content in ('{"prompt": ["a", "b"], "response": ["c", "d"]}', '{"q": ["a"], "a": ["b"]}'):
        with pytest.raises(
            HfkitError, match=r"is one object with a list for each column \(.*\): write one object per row"
        ):
            read(content, name="rows.json")
    assert read('{"prompt": "a", "replies": ["b", "c"], "ranks": [1, 2]}', COMPARISONS, name="one.json").rows[0][
        "replies"
    ]


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ('{"prompt": "a", "response": "b"},', "remove the comma at the end of each line"),
        ("{'prompt': 'a', 'response': 'b'}", "write texts in double quotes"),
    ],
)
def test_a_line_that_is_almost_json_has_a_remedy(read, line, remedy):
    with pytest.raises(HfkitError, match=rf"line 1: .*: {remedy}"):
        read(f"{line}\n{line}\n")
