"""Bad data is reported with a clear message before anything is written."""

import errno
import gzip
import json
import os
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from hfkit.core.errors import ConfigError, HfkitError
from hfkit.data.concatenation import concatenate_sources

TURN = {"prompt": "What does Ann like?", "response": "red."}


@pytest.fixture
def untouched(tmp_path):
    """An output folder next to a file of the user, and a check that the run wrote nothing."""
    (tmp_path / "mine.txt").write_text("mine")
    before = {path.name for path in tmp_path.iterdir()}
    yield tmp_path / "out"
    assert not (tmp_path / "out").exists()
    assert before <= {path.name for path in tmp_path.iterdir()}


@pytest.fixture
def source(tmp_path):
    """source(name, content) -> the path of a file with this content: bytes, or rows."""

    def write(name: str, content) -> str:
        file = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content).encode()
        file.write_bytes(content)
        return str(file)

    return write


LINES = (json.dumps(TURN) + "\n").encode() * 30
FILES = {
    "missing column": ("a.jsonl", [TURN] * 9, {"columns": {"prompt": "question"}}, "no column 'question' (for prompt)"),
    "missing column of a text": (
        "a.jsonl",
        [TURN] * 9,
        {"columns": {"prompt": "{question} {prompt}"}},
        "no column 'question' (for prompt)",
    ),
    "no column of the stage": ("a.jsonl", [{"question": "x"}] * 9, {}, "but none that this stage reads"),
    "unknown split": ("a.jsonl", [TURN] * 9, {"split": "tset"}, "Unknown split"),
    "unknown split of a stream": (
        "a.jsonl",
        [TURN] * 9,
        {"split": "tset", "streaming": True, "rows": 5},
        "the stream has no split 'tset'; choose one of ['train']",
    ),
    "empty": ("a.jsonl", b"", {}, "it is empty"),
    "empty gz": ("a.jsonl.gz", gzip.compress(b"", mtime=0), {}, "cannot read the dataset"),
    "no rows": ("a.json", b"[]", {}, "a.json"),
    "gz cut short": ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:60], {}, "EOFError"),
    "gz cut short, streamed": (
        "a.jsonl.gz",
        gzip.compress(LINES, mtime=0)[:60],
        {"streaming": True, "rows": 50},
        "EOFError",
    ),
    "no gz at all": ("a.jsonl.gz", LINES, {}, "BadGzipFile"),
    "bad line": ("a.jsonl", LINES + b'{"prompt": "x", "resp\n' + LINES, {}, "line 31: JSONDecodeError"),
    "bad line, streamed": (
        "a.jsonl",
        LINES + b'{"prompt": "x", "resp\n' + LINES,
        {"streaming": True, "rows": 60},
        "line 31: JSONDecodeError",
    ),
    "not UTF-8": ("a.jsonl", LINES + b'{"prompt": "caf\xe9"}\n', {}, "line 31: UnicodeDecodeError"),
    "other types in some lines": (
        "a.jsonl",
        LINES + b'{"prompt": {"a": 1}, "response": "x"}\n{"prompt": 3, "response": "x"}\n' * 5,
        {},
        "30 kept, 10 dropped (10 neither text nor messages",
    ),
    "numbers for text": ("a.jsonl", [{"prompt": 3, "response": 4}] * 9, {}, "the column 'prompt' holds int64"),
    "no parquet": ("a.parquet", LINES, {}, "cannot read the dataset"),
    "all of them empty": ("a.jsonl", [TURN | {"response": ""}] * 9, {}, "9 dropped (9 without a response)"),
    "budget for nothing": (
        "a.jsonl",
        [TURN] * 9,
        {"tokens": 1},
        "tokens: 1 leaves none of its 9 rows",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_source_that_cannot_be_used_is_reported(run_stage, untouched, source, kind):
    name, content, entry, reported = FILES[kind]
    with pytest.raises(HfkitError) as error:
        run_stage("sft", untouched, datasets=[{"path": source(name, content), **entry}], test_split_size=None)
    assert reported in str(error.value)
    assert name in str(error.value) or "train:" in str(error.value)


USER, LONG = {"role": "user", "content": "Who?"}, "red and blue and green and pink " * 20
CALL = {"function": {"name": "who", "arguments": "{Ann"}}
ROWS = {
    "no assistant message": ("sft", {"messages": [USER]}, "9 no assistant message"),
    "empty reply": ("sft", {"messages": [USER, {"role": "assistant", "content": ""}]}, "9 with an empty response"),
    "no text": ("sft", {"messages": [USER, {"role": "assistant", "content": None}]}, "9 with an empty response"),
    "no messages": ("sft", {"messages": []}, "9 empty"),
    "a turn of tools that the template refuses": (
        "sft",
        {"messages": [USER, {"role": "tool", "content": "x"}, {"role": "assistant", "content": "Ann."}]},
        "rejected by the chat template: roles are system, user and assistant, not tool",
    ),
    "tools that are none": ("sft", {**TURN, "tools": "[{"}, "9 tools that are not JSON"),
    "arguments that are none": (
        "sft",
        {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
        "9 tool_calls whose arguments are not JSON",
    ),
    "all too long": ("sft", {"prompt": LONG, "response": "red"}, "9 with no response within max_length=64"),
    "all pairs too long": ("reward", {"prompt": LONG, "chosen": "a", "rejected": "b"}, "9 longer than max_length=64"),
    "chosen is rejected": ("reward", {"prompt": "Who?", "chosen": "a", "rejected": "a"}, "9 with equal responses"),
    "no rejected": ("reward", {"prompt": "Who?", "chosen": "a", "rejected": None}, "9 without a response"),
    "a prompt that ends with a reply": (
        "ppo",
        {"prompt": [USER, {"role": "assistant", "content": "Ann."}]},
        "9 with an assistant message at the end of the prompt",
    ),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_that_teach_nothing_are_reported(run_stage, untouched, source, kind):
    stage, row, reported = ROWS[kind]
    rows = [row] * 9
    with pytest.raises(HfkitError) as error:
        run_stage(stage, untouched, datasets=[{"path": source("a.jsonl", rows)}], test_split_size=None)
    assert "train: 9 rows, 0 kept, 9 dropped" in str(error.value)
    assert reported in str(error.value)


MIXED = {
    "columns": ([TURN], [{"text": "x"}], "the datasets have different columns: "),
    "columns of one": ([TURN], [{"prompt": "x"}], "b.jsonl': ('prompt',)"),
    "types": (
        [{"messages": [{"role": "user", "content": "x"}]}],
        [{"messages": [{"role": "user", "content": ["x"]}]}],
        "the column 'messages' has different types in the datasets",
    ),
}


@pytest.mark.parametrize("kind", MIXED)
def test_sources_that_do_not_fit_together_are_reported(run_stage, untouched, source, kind):
    one, other, reported = MIXED[kind]
    entries = [{"path": source("a.jsonl", one * 9)}, {"path": source("b.jsonl", other * 9)}]
    with pytest.raises(HfkitError) as error:
        run_stage("sft", untouched, datasets=entries, test_split_size=None)
    assert reported in str(error.value)
    assert "a.jsonl" in str(error.value)


def test_pairs_and_rankings_are_not_mixed():
    pair, ranking = {"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "replies": ["b"], "scores": [1.0]}
    with pytest.raises(HfkitError, match=r"pairs and rankings \(also from KTO\) cannot be mixed"):
        concatenate_sources([Dataset.from_list([pair]), Dataset.from_list([ranking])], ["a.jsonl", "b.jsonl"])


A, B = {"path": "A"}, {"path": "B"}
ENTRIES = {
    "no path": ([{}], "datasets[0].path", "missing: a file or a Hub id, or set card: NAME"),
    "missing file": ([{"path": "nowhere.jsonl"}], "datasets[0].path", "no such file"),
    "missing folder": ([{"path": "no/where/to/be"}], "datasets[0].path", "no such file, and not a Hub id"),
    "pattern": ([{"path": "rows/*.jsonl"}], "datasets[0].path", "name the folder, or list the files"),
    "two files in one text": ([{"path": "a.jsonl,b.csv"}], "datasets[0].path", "write a list, [a.jsonl, b.csv]"),
    "packed by bzip2": ([{"path": "C"}], "datasets[0].path", "expected a file that ends in .jsonl, .json"),
    "unknown card": ([{"card": "ultrachatt"}], "datasets[0].card", "did you mean ultrachat?"),
    "unknown card file": ([{"card": "nowhere.md"}], "datasets[0].card", "there is no data card 'nowhere.md'"),
    "unknown split of a card": ([{"card": "alpaca", "split": "test"}], "datasets[0].split", "no split 'test'"),
    "card without its files": ([{"card": "quickstart-prompts", "path": "no/x/y"}], "datasets[0].path", "no such file"),
    "card and columns": ([{"card": "alpaca", "columns": {"prompt": "a"}}], "datasets[0].columns", "the card sets it"),
    "negative weight": ([A | {"weight": 1}, B | {"weight": -1}], "datasets[1].weight", "must not be negative"),
    "weights of zero": ([A | {"weight": 0}, B | {"weight": 0}], "datasets[0].weight", "at least one source"),
    "half weighted": ([A | {"weight": 1}, B], "datasets[1].weight", "set a weight for all sources, or for none"),
    "no rows": ([A | {"rows": 0}], "datasets[0].rows", "must be above 0"),
    "no epochs": ([A | {"epochs": -1.5}], "datasets[0].epochs", "must be above 0"),
    "two budgets": ([A | {"rows": 5, "tokens": 5}], "datasets[0].rows", "set one budget: rows, tokens"),
    "stream without a budget": ([A | {"streaming": True}], "datasets[0].streaming", "set rows or tokens"),
    "part of a stream": (
        [A | {"streaming": True, "rows": 5, "split": "train[:9]"}],
        "datasets[0].split",
        "cannot be sliced",
    ),
    "weight that is no number": ([A | {"weight": "half"}], "datasets[0].weight", "expected number"),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_invalid_entry_is_reported(config_of, untouched, source, kind):
    entries, key, reported = ENTRIES[kind]
    files = {"A": source("a.jsonl", [TURN]), "B": source("b.jsonl", [TURN]), "C": source("c.jsonl.bz2", [TURN])}
    entries = [{k: files.get(v, v) if k == "path" else v for k, v in entry.items()} for entry in entries]
    with pytest.raises(ConfigError) as error:
        config_of("sft", untouched, datasets=entries)
    assert [problem.key for problem in error.value.problems] == [key]
    assert reported in error.value.problems[0].remedy


@pytest.mark.skipif(sys.version_info < (3, 11), reason="pathlib of Python 3.10 keeps an os.stat of its own")
def test_paths_that_may_not_be_looked_into_are_reported(config_of, tmp_path, monkeypatch):
    private, stat = str(tmp_path / "private"), os.stat

    def guarded(path, *args, **kwargs):  # root may read any folder
        if str(path).startswith(private):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", guarded)
    files = {"path": f"{private}/rows.jsonl"}, {"card": "quickstart-preferences", "path": f"{private}/sets"}
    with pytest.raises(ConfigError) as error:
        config_of("reward", Path(private) / "out", datasets=[*files], model_name_or_path=f"{private}/model")
    keys = [problem.key for problem in error.value.problems]
    assert keys == ["output_dir", "datasets[0].path", "datasets[1].path", "model_name_or_path"]


@pytest.mark.parametrize(
    ("stage", "changes", "key"),
    [
        ("tokenizer", {"datasets": [A | {"tokens": 5}]}, "datasets[0].tokens"),
        ("sft", {"eval_datasets": [A | {"weight": 1}], "test_split_size": None}, "eval_datasets[0].weight"),
    ],
)
def test_an_option_that_would_do_nothing_is_reported(config_of, untouched, source, stage, changes, key):
    path = source("a.jsonl", [TURN | {"text": "x"}])
    changes = {k: [e | {"path": path} for e in v] if v else v for k, v in changes.items()}
    with pytest.raises(ConfigError) as error:
        config_of(stage, untouched, **changes)
    assert [problem.key for problem in error.value.problems] == [key]
