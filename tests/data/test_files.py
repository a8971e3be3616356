"""Files with odd names or cells that look empty, and the messages about files without rows."""

import ast
import gzip
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from read_rows import load_entry

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.data.splits import load_rows

WANTED = ["prompt", "response"]
LINE = json.dumps({"prompt": "Who?", "response": "Ann."}).encode() + b"\n"
STREAMS = pytest.mark.parametrize("stream", [{}, {"streaming": True, "rows": 50}], ids=["file", "stream"])


@STREAMS
@pytest.mark.parametrize("name", ["rows[1].jsonl", "rows*.jsonl", "rows?.jsonl", "d[1]/rows.jsonl", "{a,b}.jsonl"])
def test_the_file_of_a_name_is_read_and_no_other(tmp_path, name, stream):
    for other in ("rows1.jsonl", "rows2.jsonl", "a.jsonl", "b.jsonl", "d1/rows.jsonl"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(LINE * 7)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(LINE * 3)
    assert len(load_entry(DatasetEntry(path=str(tmp_path / name), **stream), WANTED)) == 3


WORDS = ["None", "NA", "null", "nan", "N/A", "yes", ""]


@STREAMS
def test_words_in_a_csv_stay_text(tmp_path, stream):
    (tmp_path / "a.csv").write_text(
        "prompt,response\n" + "".join(f"Is it {n}?,{word}\n" for n, word in enumerate(WORDS))
    )
    rows = load_entry(DatasetEntry(path=str(tmp_path / "a.csv"), **stream), WANTED)
    assert {*rows["response"]} == {*WORDS[:-1], None}


PRETTY = json.dumps([{"prompt": "Who?", "response": "caf"}] * 3, indent=1).encode()
NONE = {
    "lines of null": ("a.jsonl", b"null\n" * 5, "no line is an object"),
    "lines of lists": ("a.jsonl", b'["a", "b"]\n' * 5, "line 1: expected an object"),
    "a line that is a list": ("a.jsonl", LINE * 3 + b"[1]\n" + LINE, "line 4: expected an object"),
    "half a surrogate pair": ("a.jsonl", LINE + LINE.replace(b"Ann", b"\\ud83d"), "line 2: UnicodeEncodeError"),
    "a bad byte in pretty JSON": ("a.json.gz", gzip.compress(PRETTY.replace(b"caf", b"\xe9")), "line 4: UnicodeDecode"),
}


@STREAMS
@pytest.mark.parametrize("kind", NONE)
def test_a_file_that_cannot_be_read_is_reported_by_its_line(tmp_path, kind, stream):
    name, content, reported = NONE[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HfkitError) as error:
        load_entry(DatasetEntry(path=str(tmp_path / name), **stream), WANTED)
    assert reported in str(error.value)


def test_files_without_rows_are_reported(tmp_path):
    empty = {"prompt": pa.array([], pa.string()), "response": pa.array([], pa.string())}
    pq.write_table(pa.table(empty), tmp_path / "a.parquet")
    Dataset.from_dict({"prompt": ["a"], "response": ["b"]}).select([]).save_to_disk(tmp_path / "saved")
    for name in ("a.parquet", "saved"):
        with pytest.raises(HfkitError, match="it is empty"):
            load_entry(DatasetEntry(path=str(tmp_path / name)), WANTED)


@pytest.mark.parametrize("name", ["a.xlsx", "a.tsv2", "a.JSONL", "a"])
def test_an_unsupported_file_type_is_reported_with_the_supported_ones(config_of, tmp_path, name):
    (tmp_path / name).write_bytes(LINE)
    with pytest.raises(ConfigError, match=r"expected a file that ends in \.jsonl, \.json"):
        config_of("sft", tmp_path / "out", datasets=[{"path": str(tmp_path / name)}])


def test_messages_that_polars_wrote_join_others(tmp_path, rows_file):
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}]
    large = pa.large_list(pa.struct([("role", pa.large_string()), ("content", pa.large_string())]))
    pq.write_table(pa.table({"messages": pa.array([turns] * 3, large)}), tmp_path / "a.parquet")
    entries = [{"path": str(tmp_path / "a.parquet")}, *rows_file([{"messages": turns}] * 2)]
    rows, stats = load_rows("train", [DatasetEntry(**entry) for entry in entries], ["messages"])
    assert rows["messages"][:] == [turns] * 5
    assert stats.sources[0]["sha256"] != stats.sources[1]["sha256"]


@pytest.mark.slow
def test_rows_are_utf8_whatever_the_locale(tmp_path):
    row = {"prompt": "Où est Köln? 中", "response": "Nähe"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps([row, row | {"prompt": "2024-01-01"}], ensure_ascii=False), "utf-8")
    (tmp_path / "c.csv").write_text(f"prompt,response\n{row['prompt']},{row['response']}\n", encoding="utf-8")
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": "2024-01-01", "response": "Nähe"}, ensure_ascii=False))
    code = (
        "import sys; from hfkit.config.fields import DatasetEntry; from hfkit.data.sources import read_entry\n"
        "print(ascii([read_entry(DatasetEntry(path=path), ['prompt', 'response']).rows[0] for path in sys.argv[1:]]))"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [
        sys.executable,
        "-c",
        code,
        *(str(tmp_path / name) for name in ("a.jsonl", "b.json", "c.csv", "d.jsonl")),
    ]
    result = subprocess.run(command, env=os.environ | locale, capture_output=True, text=True, check=True)
    expected = [row] * 3 + [row | {"prompt": "2024-01-01"}]
    assert ast.literal_eval(result.stdout.splitlines()[-1]) == expected
