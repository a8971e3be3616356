"""Sources of rows: formats, columns, splits, and a fingerprint of their content."""

import csv
import gzip
import json

import datasets
import pytest
from read_rows import load_entry

from hfkit.config.fields import DatasetEntry
from hfkit.config.stages import SFTConfig
from hfkit.core.errors import HfkitError
from hfkit.data.caching import Versioned, content_hash
from hfkit.data.splits import load_splits

ROWS = [{"prompt": f"question {n}", "response": f"answer {n}"} for n in range(10)]
WANTED = ["prompt", "response", "text"]


def write_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def write_gz(path):
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in ROWS)


def write_csv(path):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["prompt", "response"])
        writer.writeheader()
        writer.writerows(ROWS)


FILES = {
    "rows.jsonl": write_jsonl,
    "rows.jsonl.gz": write_gz,
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.csv": write_csv,
    "rows.parquet": lambda path: datasets.Dataset.from_list(ROWS).to_parquet(path),
    "saved": lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(path),
}


def entry(path, **changes) -> DatasetEntry:
    return DatasetEntry(path=str(path), **changes)


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(tmp_path, name):
    FILES[name](tmp_path / name)
    rows = load_entry(entry(tmp_path / name), WANTED)
    assert rows.to_list() == ROWS
    assert content_hash(rows) == content_hash(datasets.Dataset.from_list(ROWS))


def test_a_text_file_has_one_row_per_line(tmp_path):
    (tmp_path / "rows.txt").write_text("one\n\ntwo\n")  # an empty line is not a row
    assert load_entry(entry(tmp_path / "rows.txt"), ["text"])["text"] == ["one", "two"]


def test_splits_can_be_sliced_and_columns_mapped(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl")
    rows = load_entry(entry(tmp_path / "rows.jsonl", split="train[:3]", columns={"text": "response"}), ["text"])
    assert rows.to_list() == [{"text": "answer 0"}, {"text": "answer 1"}, {"text": "answer 2"}]
    swapped = entry(tmp_path / "rows.jsonl", columns={"prompt": "response"})
    assert load_entry(swapped, WANTED).to_list()[0] == {"prompt": "answer 0"}


def test_columns_can_change_places(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl")
    swapped = entry(tmp_path / "rows.jsonl", columns={"prompt": "response", "response": "prompt"})
    assert load_entry(swapped, WANTED)[0] == {"prompt": "answer 0", "response": "question 0"}


@pytest.mark.parametrize("split", ["test", "train[:3]"])
def test_a_saved_dataset_has_whole_splits(tmp_path, split):
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "saved")
    assert load_entry(entry(tmp_path / "saved"), WANTED).to_list() == ROWS
    with pytest.raises(HfkitError, match=r"choose one of \['train'\], without slicing"):
        load_entry(entry(tmp_path / "saved", split=split), WANTED)


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"columns": {"prompt": "question"}}, r"no column 'question' \(for prompt\); it has \['prompt', 'response'\]"),
        ({"split": "test"}, "test"),
    ],
)
def test_what_a_source_lacks_is_reported(tmp_path, changes, reported):
    write_jsonl(tmp_path / "rows.jsonl")
    with pytest.raises(HfkitError, match=reported):
        load_entry(entry(tmp_path / "rows.jsonl", **changes), WANTED)


def test_a_source_with_no_column_of_the_stage_says_how_to_map_one(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl")
    with pytest.raises(HfkitError, match=r"columns: \{text: YOUR_COLUMN\}"):
        load_entry(entry(tmp_path / "rows.jsonl"), ["text"])


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": ')
    with pytest.raises(HfkitError, match=r"rows\.jsonl"):
        load_entry(entry(tmp_path / "rows.jsonl"), WANTED)


def splits(tmp_path, **changes):
    write_jsonl(tmp_path / "rows.jsonl")
    values = {"datasets": [entry(tmp_path / "rows.jsonl")], **changes}
    return load_splits(SFTConfig(output_dir="unused", **values), WANTED)


@pytest.mark.parametrize(("size", "held_out"), [(3, 3), (0.2, 2), (None, None)])
def test_rows_are_held_out_by_share_or_number_and_none_is_in_both(tmp_path, size, held_out):
    train, test, stats = splits(tmp_path, test_split_size=size)
    assert (None if test is None else len(test)) == held_out
    assert len(train) + (held_out or 0) == 10 == sum(split.rows for split in stats.values())
    assert not set(train["prompt"]) & set(test["prompt"] if test is not None else [])


def test_the_split_depends_only_on_the_seed(tmp_path):
    halves = [splits(tmp_path, test_split_size=5, seed=seed)[1]["prompt"] for seed in (1, 1, 2)]
    assert halves[0] == halves[1] != halves[2]


def test_sources_are_joined_in_order_and_each_has_its_fingerprint(tmp_path):
    write_csv(tmp_path / "more.csv")
    write_jsonl(tmp_path / "rows.jsonl")
    both = [entry(tmp_path / "rows.jsonl"), entry(tmp_path / "more.csv", split="train[:4]")]
    train, _, stats = splits(tmp_path, datasets=both)
    assert train.to_list() == ROWS + ROWS[:4]
    first, second = stats["train"].sources
    assert (first["rows"], second["rows"]) == (10, 4)
    assert first["sha256"] != second["sha256"]


def test_sources_with_different_columns_do_not_merge_silently(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "x"}\n')
    both = [entry(tmp_path / "rows.jsonl"), entry(tmp_path / "texts.jsonl")]
    with pytest.raises(HfkitError, match="different columns"):
        splits(tmp_path, datasets=both)


def test_the_fingerprint_is_of_the_rows(tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    chosen = rows.select([9, 8, 7]).flatten_indices()
    assert content_hash(rows.select([9, 8, 7])) == content_hash(chosen)
    assert content_hash(rows.select([7, 8, 9])) != content_hash(chosen)
    assert content_hash(rows.select([9, 8])) != content_hash(chosen)


def marked(row: dict) -> dict:
    return {"seen": True}


def test_rows_that_another_version_encoded_are_not_taken_from_the_cache(rows_file, tokenizer):
    rows = load_entry(DatasetEntry(path=rows_file([{"text": "one"}, {"text": "two"}])[0]["path"]), ["text"])
    one, same, other = (rows.map(Versioned(marked, code)) for code in ("a", "a", "b"))
    assert one.cache_files == same.cache_files != other.cache_files
