"""Tokenized rows are cached: another process finds them, even if rows and tokenizer have moved."""

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import python_path
from forks import Fork, run
from quick import mostly_slow
from transformers import AutoTokenizer

from hfkit.config.fields import DatasetEntry
from hfkit.config.stages import PretrainConfig, SFTConfig
from hfkit.core.temporary import machine
from hfkit.data import caching
from hfkit.data.caching import (
    ROWS_PER_PROCESS,
    cached_map,
    content_hash,
    function_identity,
    process_count,
    tokenizer_hash,
)
from hfkit.data.files import read_rows
from hfkit.data.forms import INSTRUCTIONS, encode_instructions
from hfkit.data.packing import pack_documents
from hfkit.data.splits import load_splits
from hfkit.models.tokenizers import load_tokenizer

ROWS = [{"prompt": f"Who is {n}?", "response": "It is Ann." if n else ""} for n in range(20)]
FRESH = """
import sys
from functools import partial
from datasets.fingerprint import Hasher
from transformers import AutoTokenizer
from hfkit.data.caching import function_identity
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
assert hash("a") != int(sys.argv[2])
print(Hasher.hash(function_identity(partial(print, tokenizer=tokenizer, max_length=64))))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A separate cache for the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "hfkit"


def noted(row: dict, log: str, tokenizer=None) -> dict:
    """Records each row that it is called with."""
    with open(log, "a") as lines:
        lines.write("x")
    return {"seen": True}


def prepared(path: Path, tokenizer, **changes) -> tuple[datasets.Dataset, dict]:
    """Return the rows of a file as SFT trains on them, and their statistics."""
    settings = {"output_dir": "unused", "max_length": 64, **changes}
    config = SFTConfig(datasets=[DatasetEntry(path=str(path))], **settings)
    rows, _, stats = load_splits(config, INSTRUCTIONS)
    return encode_instructions(rows, tokenizer, stats["train"], config), stats["train"].as_dict()


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_and_tokenizers_are_identified_by_their_content(tmp_path, tokenizer, tokenizer_dir, cache):
    log = tmp_path / "log"
    for name in ("a.jsonl", "b.jsonl"):  # the same rows in another file, and a new tokenizer that has been used
        rows = datasets.load_dataset("json", data_files=str(write(tmp_path / name, ROWS)), split="train")
        fresh = load_tokenizer(str(tokenizer_dir))
        fresh(["one", "two and more"], padding=True, truncation=True, max_length=2)
        cached_map(rows, partial(noted, log=str(log), tokenizer=fresh), remove_columns=rows.column_names)
    assert log.read_text() == "x" * len(ROWS)
    changed = load_tokenizer(str(tokenizer_dir))
    changed.add_tokens(["Ann"])
    cached_map(rows, partial(noted, log=str(log), tokenizer=changed), remove_columns=rows.column_names)
    assert log.read_text() == "x" * len(ROWS) * 2


def test_a_second_run_tokenizes_nothing_and_has_the_same_statistics(tmp_path, tokenizer_dir, tokenizer, cache):
    first = prepared(write(tmp_path / "a.jsonl", ROWS), tokenizer)
    made = {file: file.stat().st_mtime_ns for file in cache.rglob("*")}
    again = prepared(write(tmp_path / "b.jsonl", ROWS), load_tokenizer(str(tokenizer_dir)))
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*")} == made
    assert first[0].to_list() == again[0].to_list()
    assert first[1].pop("sources")[0]["sha256"] == again[1].pop("sources")[0]["sha256"]
    assert first[1] == again[1]
    assert first[1]["dropped"] == {"without a response": 1}


def test_documents_are_packed_once(tmp_path, tokenizer, cache):
    write(tmp_path / "a.jsonl", [{"text": f"Ann likes red. {n}"} for n in range(30)])
    config = PretrainConfig(output_dir="unused", datasets=[DatasetEntry(path=str(tmp_path / "a.jsonl"))], block_size=8)
    packed, made = [], []
    for _ in range(2):
        rows, _, stats = load_splits(config, ["text"])
        packed.append(pack_documents(rows, tokenizer, stats["train"], config)[0].to_list())
        made.append({file: file.stat().st_mtime_ns for file in cache.rglob("*")})
    assert packed[0] == packed[1]
    assert made[0] == made[1]


@pytest.mark.parametrize("changed", ["setting", "code", "rows"])
def test_a_change_of_the_result_invalidates_the_cache(tmp_path, tokenizer, cache, monkeypatch, changed):
    prepared(write(tmp_path / "a.jsonl", ROWS), tokenizer)
    made = len([*cache.iterdir()])
    if changed == "code":
        monkeypatch.setattr(caching, "code_hash", lambda _: "other")
    file = write(tmp_path / "a.jsonl", ROWS[1:] if changed == "rows" else ROWS)
    prepared(file, tokenizer, max_length=32 if changed == "setting" else 64)
    assert len([*cache.iterdir()]) > made


def test_several_processes_give_the_same_rows(tmp_path, tokenizer, monkeypatch):
    file = write(tmp_path / "a.jsonl", ROWS)
    alone, stats = prepared(file, tokenizer)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "other")
    together, same = prepared(file, tokenizer, dataset_num_proc=2)
    assert alone.to_list() == together.to_list()
    assert stats == same


def test_another_process_finds_what_this_one_made(tokenizer_dir):
    """One whose server was started with another seed for the hashes of strings."""
    env = os.environ | {"PYTHONPATH": python_path(Path(caching.__file__).parents[2])}
    there = run(FRESH, tokenizer_dir, hash("a"), env=env)
    fresh = AutoTokenizer.from_pretrained(tokenizer_dir)
    here = datasets.fingerprint.Hasher.hash(function_identity(partial(print, max_length=64, tokenizer=fresh)))
    assert there.stdout.strip() == here, there.stderr


def test_a_template_is_part_of_a_tokenizer(tokenizer_dir):
    one, other = load_tokenizer(str(tokenizer_dir)), load_tokenizer(str(tokenizer_dir))
    assert tokenizer_hash(one) == tokenizer_hash(other)
    other.chat_template += " "
    assert tokenizer_hash(one) != tokenizer_hash(other)


def test_how_special_tokens_are_read_is_part_of_a_tokenizer(tokenizer_dir):
    one, other = load_tokenizer(str(tokenizer_dir)), load_tokenizer(str(tokenizer_dir))
    other.split_special_tokens = True
    assert one("<|endoftext|>").input_ids != other("<|endoftext|>").input_ids
    assert tokenizer_hash(one) != tokenizer_hash(other)


TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
COLUMNS = {
    "text": (pa.string(), ["a" * (n % 9) if n % 7 else None for n in range(2100)]),
    "text with one gap": (pa.string(), ["a"] * 1500 + [None] + ["b"] * 599),
    "numbers": (pa.int64(), [n if n % 3 else None for n in range(2100)]),
    "truths": (pa.bool_(), [bool(n % 3) if n % 5 else None for n in range(2100)]),
    "lists": (pa.list_(pa.int32()), [[*range(n % 4)] if n % 9 else None for n in range(2100)]),
    "turns": (TURNS, [[{"role": "user", "content": "x" * (n % 5) or None}] * (n % 4) for n in range(2100)]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_the_hash_of_rows_does_not_depend_on_their_chunks(kind):
    type_of, values = COLUMNS[kind]
    whole, hashes = pa.table({"x": pa.array(values, type_of)}), set()
    for cuts in ([], [900], [1000], [503], [1500], [1, 2, 2000]):
        pieces = [pa.array(values[a:b], type_of) for a, b in pairwise([0, *cuts, 2100])]
        hashes.add(content_hash(datasets.Dataset(pa.table({"x": pa.chunked_array(pieces)}))))
        slices = [whole.slice(a, b - a) for a, b in pairwise([0, *cuts, 2100])]
        hashes.add(content_hash(datasets.Dataset(pa.concat_tables(slices))))
    assert len(hashes) == 1
    assert content_hash(datasets.Dataset(whole.slice(1))) not in hashes


@pytest.mark.slow
def test_a_file_of_another_kind_is_found_again(tmp_path, tokenizer, cache):
    rows = [{"prompt": f"Who is {n}?", "response": None if n % 50 == 0 else "Ann."} for n in range(1200)]
    first = prepared(write(tmp_path / "a.jsonl", rows), tokenizer)[1]
    made = {file: file.stat().st_mtime_ns for file in cache.rglob("*")}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet", row_group_size=500)
    again = prepared(tmp_path / "b.parquet", tokenizer)[1]
    assert first["sources"][0]["sha256"] == again["sources"][0]["sha256"]
    kept = [file for file in cache.rglob("*") if "unpacked" not in file.parts]  # there: that its texts were measured
    assert {file: file.stat().st_mtime_ns for file in kept} == made


SLOW = """
import sys, time
from functools import partial
from pathlib import Path
import datasets
from datasets import Dataset
from hfkit.data.caching import cached_map
import slow

def noted(row, log):
    time.sleep(0.05)
    with open(log, "a") as lines:
        lines.write("x")
    return {"seen": True}

def main():
    datasets.config.HF_DATASETS_CACHE = Path(sys.argv[3])
    rows = Dataset.from_dict({"n": [*range(40)]})
    made = cached_map(rows, partial(slow.noted, log=sys.argv[1]), num_proc=int(sys.argv[2]) or None)
    assert made["seen"][:] == [True] * 40
"""


@pytest.fixture
def slow_map(tmp_path):
    """slow_map(workers) -> a process, in its own group, that makes 40 rows in two seconds of work."""
    (tmp_path / "slow.py").write_text(SLOW)
    env = os.environ | {"PYTHONPATH": python_path(Path(caching.__file__).parents[2], tmp_path)}
    started = []

    def start(workers: int) -> Fork:
        started.append(Fork("import slow; slow.main()", tmp_path / "log", workers, tmp_path / "shared", env=env))
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):  # end its workers, which outlive it
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_only_one_of_several_processes_prepares_the_rows(tmp_path, slow_map):
    started = [slow_map(0) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "x" * 40


@pytest.mark.slow
def test_workers_of_a_killed_trainer_block_no_other_process(tmp_path, slow_map):
    killed = slow_map(2)
    while not (tmp_path / "log").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    assert slow_map(2).wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("asked", "rows", "trainers", "shared", "made"),
    [
        (None, ROWS_PER_PROCESS, 1, True, None),
        (None, ROWS_PER_PROCESS * 3, 1, True, 3),
        (None, ROWS_PER_PROCESS * 100, 1, True, 8),
        (None, ROWS_PER_PROCESS * 100, 4, True, 8),
        (None, ROWS_PER_PROCESS * 100, 4, False, 2),
        (3, 10, 1, True, 3),
        (1, 10**6, 1, True, None),
    ],
)
def test_processes_go_by_rows_and_cores(monkeypatch, asked, rows, trainers, shared, made):
    monkeypatch.setattr(datasets, "is_caching_enabled", lambda: shared)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(trainers))
    assert process_count(asked, rows) == made


def damage(cache: Path, kind: str) -> Path:
    """Damage the cached rows, and return their folder."""
    file = next(cache.glob("*/rows*.arrow"))
    content = file.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "garbage": b"garbage" * 99,
        "other": content + content,
    }
    file.write_bytes(damaged[kind])
    return file.parent


@pytest.mark.parametrize("kind", mostly_slow(["cut", "empty", "garbage", "other"], ["cut", "other"]))
def test_damaged_rows_in_the_cache_are_named_and_prepared_again(tmp_path, tokenizer, cache, capsys, kind):
    file = write(tmp_path / "a.jsonl", ROWS)
    rows = prepared(file, tokenizer)[0].to_list()
    folder = damage(cache, kind)
    assert prepared(file, tokenizer)[0].to_list() == rows
    assert f"the cache of prepared rows in {folder} is damaged" in capsys.readouterr().err
    prepared(file, tokenizer)
    assert capsys.readouterr().err == ""


def test_a_cache_that_cannot_be_written_is_named_and_the_rows_are_prepared(tmp_path, tokenizer, cache, capsys):
    file = write(tmp_path / "a.jsonl", ROWS)
    rows, _ = prepared(file, tokenizer)
    shutil.rmtree(cache)
    cache.write_text("not a folder")
    again, _ = prepared(file, tokenizer)
    assert again.to_list() == rows.to_list() and cache.read_text() == "not a folder"
    assert f"prepared rows are not cached: cannot write to {cache}" in capsys.readouterr().err


def test_what_a_killed_process_was_writing_into_the_cache_is_removed(tmp_path, tokenizer, cache):
    file = write(tmp_path / "a.jsonl", ROWS)
    rows = prepared(file, tokenizer)[0].to_list()
    folder = next(cache.glob("*/rows*.arrow")).parent
    (folder / f".rows.{machine()}.999999999.tmp").mkdir()
    (folder / f".rows.{machine()}.999999999.tmp" / "tmp0123abcd").write_bytes(b"half")
    (folder / "sizes.json").unlink()  # it is written last
    assert prepared(file, tokenizer)[0].to_list() == rows
    assert {path.name for path in folder.iterdir()} == {"lock", "rows.arrow", "sizes.json"}


@pytest.mark.parametrize("name", ["dataset_info.json", "*.arrow"])
def test_damaged_rows_in_the_cache_of_datasets_are_read_again(tmp_path, cache, capsys, name):
    file = write(tmp_path / "a.jsonl", ROWS)
    rows = read_rows({"path": str(file), "split": "train"})[0].to_list()
    for damaged in cache.parent.rglob(name):
        damaged.write_bytes(damaged.read_bytes()[:100])
    assert read_rows({"path": str(file), "split": "train"})[0].to_list() == rows
    assert f"the cache of `datasets` in {cache.parent} is damaged" in capsys.readouterr().err
