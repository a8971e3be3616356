"""Text is read unchanged: dates, numbers, leading zeros, `None`, in JSON, CSV and Parquet."""

import csv
import datetime
import gzip
import json

import pytest
from datasets import Dataset
from quick import mostly_slow
from read_rows import load_entry

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.comparisons import COMPARISONS
from hfkit.data.forms import INSTRUCTIONS, PROMPTS

LOOKS = {
    "dates": [f"2024-01-{day:02d}" for day in range(1, 9)],
    "times": [f"2024-01-01T12:00:{second:02d}Z" for second in range(8)],
    "dates and texts": ["2024-01-01", "tomorrow"] * 4,
    "dates and nothing": ["2024-01-01", None] * 4,
    "numbers": ["7", "42", "1.50", "-3", "1e5", "0", "1.0", "10"],
    "leading zeros": ["007", "042", "000", "01", "02", "03", "04", "05"],
    "words": ["None", "null", "nan", "NA", "True", "true", "N/A", "inf"],
}
CHUNK_BYTES = 10 << 20  # the reader of `datasets` infers types from a chunk of this size
STREAMS = pytest.mark.parametrize("stream", [{}, {"streaming": True, "rows": 8}], ids=["file", "stream"])


def write(path, rows: list[dict]) -> str:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*rows[0]])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        lines = json.dumps(rows, indent=1) if ".json" in path.suffixes else lines
        path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return str(path)


NAMES = ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.csv"]
QUICK = [("a.jsonl", {}), ("a.json.gz", {"streaming": True, "rows": 8}), ("a.csv", {}), ("a.parquet", {})]
READ = [(name, stream) for name in NAMES for stream in ({}, {"streaming": True, "rows": 8})] + [("a.parquet", {})]


@pytest.mark.parametrize(("name", "stream"), mostly_slow(READ, QUICK))
@pytest.mark.parametrize("kind", LOOKS)
def test_a_reply_is_the_text_that_was_written(tmp_path, kind, name, stream):
    rows = [{"prompt": f"When is {n}?", "response": text} for n, text in enumerate(LOOKS[kind])]
    found = load_entry(DatasetEntry(path=write(tmp_path / name, rows), **stream), INSTRUCTIONS)
    assert sorted(map(str, found["response"])) == sorted(map(str, LOOKS[kind]))
    assert {type(text) for text in found["response"]} <= {str, type(None)}


@STREAMS
@pytest.mark.parametrize("kind", LOOKS)
def test_the_content_of_a_message_is_the_text_that_was_written(tmp_path, kind, stream):
    rows = [{"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": t}]} for t in LOOKS[kind]]
    found = load_entry(DatasetEntry(path=write(tmp_path / "a.jsonl", rows), **stream), INSTRUCTIONS)
    assert sorted(str(row["messages"][1]["content"]) for row in found) == sorted(map(str, LOOKS[kind]))


@pytest.mark.parametrize("kind", mostly_slow(["dates", "numbers", "leading zeros", "words"], ["dates", "numbers"]))
def test_text_next_to_parts_messages_and_numbers_stays_text(tmp_path, kind):
    texts = LOOKS[kind]
    parts = [{"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "assistant", "content": "y"}]
    rows = [{"messages": parts}] + [{"messages": [parts[0], {"role": "assistant", "content": one}]} for one in texts]
    found = load_entry(DatasetEntry(path=write(tmp_path / "a.jsonl", rows)), INSTRUCTIONS)
    assert [row["messages"][1]["content"] for row in found] == ["y", *texts]
    rows = [{"prompt": [parts[1] | {"role": "user"}], "response": "z"}] + [{"prompt": t, "response": t} for t in texts]
    found = load_entry(DatasetEntry(path=write(tmp_path / "b.jsonl", rows)), INSTRUCTIONS)
    assert found[1] == {"prompt": [{"role": "user", "content": texts[0]}], "response": texts[0]}
    rows = [{"prompt": "a", "response": 8.25}] + [{"prompt": t, "response": t} for t in texts]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows).replace("8.25", "8.250"))
    assert load_entry(DatasetEntry(path=str(tmp_path / "c.jsonl")), INSTRUCTIONS)["response"][:] == ["8.250", *texts]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
@pytest.mark.parametrize("kind", ["dates", "leading zeros", "words"])
def test_a_column_of_the_reward_function_is_the_text_that_was_written(tmp_path, kind, name):
    rows = [{"prompt": f"When is {n}?", "answer": text} for n, text in enumerate(LOOKS[kind])]
    found = load_entry(DatasetEntry(path=write(tmp_path / name, rows)), PROMPTS, ["answer"])
    assert found["answer"][:] == LOOKS[kind]


def test_numbers_of_a_csv_are_numbers_where_numbers_are_read(tmp_path):
    row = {"prompt": "a", "chosen": "1", "rejected": "2", "margin": "1.50", "n": "7", "x": "0.5", "yes": "True"}
    path = write(tmp_path / "a.csv", [row] * 3)
    assert load_entry(DatasetEntry(path=path), COMPARISONS)[0] == {
        **{"prompt": "a", "chosen": "1", "rejected": "2"},
        "margin": 1.5,
    }
    needed = load_entry(DatasetEntry(path=path), PROMPTS, ["n", "x", "yes", "margin"])[0]
    assert needed == {"prompt": "a", "n": 7, "x": 0.5, "yes": True, "margin": 1.5}
    difference = DatasetEntry(path=path, columns={"margin": "margin - x"})
    assert load_entry(difference, COMPARISONS)["margin"][:] == [1.0] * 3


def test_a_late_chunk_of_dates_alone_stays_text(tmp_path):
    texts = ["x" * 1000] * (CHUNK_BYTES // 1000 + 1) + ["2024-01-01"] * 3
    path = write(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    assert load_entry(DatasetEntry(path=path), ["text"])["text"][-3:] == ["2024-01-01"] * 3


def test_a_slice_of_a_file_with_dates_is_that_slice(tmp_path):
    rows = [{"text": f"2024-01-{day:02d}"} for day in range(1, 11)]
    path = write(tmp_path / "a.jsonl", rows)
    for split, expected in {
        "train[:3]": rows[:3],
        "train[50%:]": rows[5:],
        "train[:1]+train[9:]": [rows[0], rows[9]],
    }.items():
        assert load_entry(DatasetEntry(path=path, split=split), ["text"]).to_list() == expected


def test_timestamps_of_another_reader_are_refused(tmp_path):
    moment = datetime.datetime(2024, 1, 1)
    rows = [{"messages": [{"role": "user", "content": moment}, {"role": "assistant", "content": moment}]}]
    with pytest.raises(HfkitError, match=r"the column 'messages' was read as List\(.*timestamp.*download the file"):
        load_entry(DatasetEntry(path=write(tmp_path / "a.parquet", rows)), INSTRUCTIONS)


FOLDERS = {"JSON": ["train-0.jsonl", "train-1.jsonl"], "CSV": ["train.csv"], "gzipped": ["train.jsonl.gz"]}


@pytest.mark.parametrize("kind", mostly_slow(FOLDERS, ["JSON", "CSV"]))
@pytest.mark.parametrize("looks", mostly_slow(["dates", "leading zeros", "words"], ["words"]))
def test_a_dataset_of_files_is_read_like_its_files(tmp_path, kind, looks):
    texts = LOOKS[looks]
    for name in FOLDERS[kind]:
        write(tmp_path / name, [{"prompt": "q", "response": one, "n": number} for number, one in enumerate(texts)])
    write(tmp_path / "test.jsonl", [{"prompt": "q", "response": "later"}]) if kind == "JSON" else None
    rows = load_entry(DatasetEntry(path=str(tmp_path)), INSTRUCTIONS)
    assert rows["response"][:] == texts * len(FOLDERS[kind])
    part = DatasetEntry(path=str(tmp_path), split="train[2:4]", columns={"prompt": "response"})
    assert load_entry(part, PROMPTS, ["n"]).to_list() == [{"prompt": texts[n], "n": n} for n in (2, 3)]


def test_a_streamed_dataset_of_csv_files_keeps_its_text(tmp_path):
    write(tmp_path / "train.csv", [{"prompt": "q", "response": one} for one in LOOKS["words"]])
    rows = load_entry(DatasetEntry(path=str(tmp_path), streaming=True, rows=8), INSTRUCTIONS)
    assert sorted(rows["response"]) == sorted(LOOKS["words"])
