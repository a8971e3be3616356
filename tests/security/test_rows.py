"""Rows of unknown origin: too deep, too long, too many columns, compressed bombs, broken files, control characters."""

import gzip
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfkit.core.errors import HfkitError
from hfkit.data.files import read_rows

ROW = json.dumps({"text": "Ann likes red."}) + "\n"
SLOW = pytest.mark.slow
CHECK = ("data", "check", "--stage", "tokenizer", "--output_dir", "out", "--datasets")


def nested(depth: int) -> str:
    """Return a row with a value in `depth` lists."""
    return '{"text": "x", "a": ' + "[" * depth + "1" + "]" * depth + "}\n"


def objects(depth: int) -> str:
    """Return a row with a value in `depth` objects."""
    return '{"text": "x", "a": ' + '{"a": ' * depth + "1" + "}" * depth + "}\n"


def wide(columns: int) -> str:
    """Return a row with many columns."""
    return json.dumps({"text": "x", **{f"c{index}": 1 for index in range(columns)}}) + "\n"


def bomb(megabytes: int, line: bytes = b" ") -> bytes:
    """Return gzip data that unpacks to a row and many megabytes after it."""
    packer = zlib.compressobj(9, wbits=31)
    block = (line * ((1 << 20) // len(line)))[: 1 << 20]
    return packer.compress(ROW.encode()) + b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()


def zstd_bomb(megabytes: int) -> bytes:
    """Return zstd data that unpacks to many megabytes."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        for _ in range(megabytes):
            stream.write(b" " * (1 << 20))
    return sink.getvalue().to_pybytes()


def parquet(**changes) -> bytes:
    """Return a Parquet file with rows of text."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["Ann likes red."] * 1000}), sink, **changes)
    return sink.getvalue().to_pybytes()


def parquet_bomb() -> bytes:
    """Return a Parquet file whose pages unpack to far more than its size."""
    sink = pa.BufferOutputStream()
    table = pa.table({"text": [" " * (1 << 20) + str(index) for index in range(100)]})
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    return sink.getvalue().to_pybytes()


def dictionary_bomb(is_list: bool) -> bytes:
    """Return a Parquet file with one text of 1 MiB, which its dictionary repeats in 100,000 rows or items of a row."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array([" " * (1 << 20)]))
    column = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts) if is_list else texts
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": column}), sink, store_schema=False)
    return sink.getvalue().to_pybytes()


def deep_parquet(depth: int) -> bytes:
    """Return a Parquet file with a column of lists in lists."""
    kind = pa.int64()
    for _ in range(depth):
        kind = pa.list_(kind)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["x"], "a": pa.nulls(1, kind)}), sink)
    return sink.getvalue().to_pybytes()


def arrow() -> bytes:
    """Return an Arrow file with rows of text."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema({"text": pa.string()})) as stream:
        stream.write_table(pa.table({"text": ["Ann likes red."] * 1000}))
    return sink.getvalue().to_pybytes()


CHANGING = '{"text": "x", "n": 1}\n{"text": "y", "n": [{"a": 1}]}\n{"text": "z", "n": "s"}\n'


def overwritten(content: bytes, start: int, new: bytes) -> bytes:
    """Return bytes with some of them replaced."""
    start %= len(content)
    return content[:start] + new + content[start + len(new) :]


def write(path: Path, content: str | bytes | Callable[[], str | bytes]) -> None:
    """Write a file. What takes long to make is a function: all workers collect all cases, and one runs them."""
    content = content() if callable(content) else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


HUGE = b"\xff\xff\xff\x7f"
DEEP = r"rows\.jsonl: line 21: .*nested.*HFKIT_MAX_DEPTH"
LONG = r"line 21: it has more than .*HFKIT_MAX_ROW_BYTES"
BOMBS = r"unpacks to more than .*HFKIT_MAX_UNPACKED_RATIO"
ROWS = "".join(json.dumps({"text": f"Ann likes {number} colours."}) + "\n" for number in range(20))


@pytest.mark.hostile("rows")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("rows.jsonl", ROWS + nested(150), DEEP, id="lists-in-lists"),
        pytest.param("rows.jsonl", ROWS + nested(900), DEEP, id="900-lists"),
        pytest.param("rows.jsonl", ROWS + nested(200_000), DEEP, id="200000-lists", marks=SLOW),
        pytest.param("rows.jsonl", ROWS + objects(400), DEEP, id="objects-in-objects", marks=SLOW),
        pytest.param(
            "rows.json", f"[{nested(400)}]", r"rows\.json: row 1: .*nested.*HFKIT_MAX_DEPTH",
            id="deep-list", marks=SLOW,
        ),
        pytest.param("rows.json", "[" * 100_000, r"rows\.json: .*nested.*HFKIT_MAX_DEPTH", id="open-brackets"),
        pytest.param(
            "rows.jsonl", lambda: ROWS + json.dumps({"text": "x" * 100_000_000}), LONG, id="line-of-100-MB", marks=SLOW,
        ),
        pytest.param("rows.txt", lambda: "short\n" * 20 + "x" * 20_000_000, LONG, id="long-text-line"),
        pytest.param(
            "rows.csv", lambda: "text\n" + "a\n" * 20 + "x" * 17_000_000, "HFKIT_MAX_ROW_B",
            id="long-cell", marks=SLOW,
        ),
        pytest.param(
            "rows.json", lambda: json.dumps([{"text": "x" * 17_000_000}]), "HFKIT_MAX_ROW_B",
            id="long-item", marks=SLOW,
        ),
        pytest.param("rows.jsonl.gz", lambda: bomb(200), BOMBS, id="gzip-bomb"),
        pytest.param("rows.txt.gz", lambda: bomb(200, b"a\n"), BOMBS, id="gzip-bomb-of-lines", marks=SLOW),
        pytest.param("rows.csv.gz", lambda: bomb(200, b"a\n"), BOMBS, id="gzip-bomb-of-cells", marks=SLOW),
        pytest.param("rows.jsonl.zst", lambda: zstd_bomb(200), BOMBS, id="zstd-bomb"),
        pytest.param(
            "rows.txt", lambda: bomb(200, b"a\n"), r"rows\.txt", id="gzip-bomb-under-another-name", marks=SLOW,
        ),
        pytest.param(
            "rows.jsonl", lambda: ROWS + wide(100_000), "line 21: .*HFKIT_MAX_COLUMNS", id="100000-columns", marks=SLOW,
        ),
        pytest.param("rows.csv", ",".join(f"c{i}" for i in range(200_000)) + "\n", "HFKIT_MAX_COLUMNS", id="wide-csv"),
        pytest.param(
            "rows.jsonl",
            lambda: "".join(json.dumps({"text": "x"} | {f"c{i}-{j}": 1 for j in range(999)}) + "\n" for i in range(99)),
            "line 1[01]: .*HFKIT_MAX_COLUMNS",
            id="new-columns-in-each-row", marks=SLOW),
        pytest.param("rows.jsonl", ROWS + json.dumps({"k" * (1 << 20): 1}), "line 21: .*key", id="key-of-1-MB"),
        pytest.param("rows.jsonl", ROWS + '{"text": ' + "9" * 100_000 + "}", "line 21: ", id="number-of-100000-digits"),
        pytest.param(
            "rows.jsonl", ROWS + '{"text": "\\ud800"}', "line 21: .*surrogates",
            id="half-a-surrogate", marks=SLOW,
        ),
        pytest.param("rows.jsonl", ROWS + '{"text": "\x1b]0;x\x07", "b": 1, \x1b[2J}', "line 21", id="escape-codes"),
        pytest.param("rows.jsonl", '{"\\u001b]0;x\\u0007\\u202e": "y"}\n' * 20, r"\\x1b", id="escape-codes-in-a-key"),
        pytest.param("rows.csv", "text\x00,b\nx,y\n", r"rows\.csv: .*null character", id="nul-in-csv-header"),
        pytest.param("rows.csv", 'text,b\n"' + "x,y\n" * 1_000_000, "EOF inside string", id="open-quote", marks=SLOW),
        pytest.param("rows.parquet", parquet()[:-30], r"rows\.parquet: ", id="parquet-cut"),
        pytest.param("rows.parquet", overwritten(parquet(), -8, HUGE), r"rows\.parquet: ", id="parquet-lies"),
        pytest.param("rows.parquet", overwritten(parquet(), 4, b"\xff" * 500), r"rows\.parquet: ", id="pages-lie"),
        pytest.param("rows.parquet", lambda: parquet_bomb(), BOMBS, id="parquet-bomb", marks=SLOW),
        pytest.param("rows.parquet", lambda: dictionary_bomb(False), BOMBS, id="parquet-dictionary"),
        pytest.param("rows.parquet", lambda: dictionary_bomb(True), BOMBS, id="parquet-dictionary-in-a-list"),
        pytest.param("rows.parquet", deep_parquet(400), r"rows\.parquet: ", id="deep-parquet"),
        pytest.param("rows.arrow", arrow()[:-200], r"rows\.arrow: ", id="arrow-cut"),
        pytest.param("rows.arrow", overwritten(arrow(), 4, HUGE), r"rows\.arrow: ", id="arrow-lies"),
    ],
)  # fmt: skip
def test_rows_that_attack_are_refused(attack, tmp_path, name, content, message):
    write(tmp_path / name, content)
    ran = attack(*CHECK, name)
    assert ran.status in (1, 2) and re.search(message, ran.output), ran
    assert len(ran.output) < 5000


@pytest.mark.hostile("rows")
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(ROWS + '{"text": "x", "n": 1e400, "m": -1e999}\n', id="huge-floats", marks=SLOW),
        pytest.param(ROWS + '{"text": "x", "n": NaN, "m": Infinity}\n', id="nan-and-infinity", marks=SLOW),
        pytest.param(ROWS + CHANGING, id="types-change"),
        pytest.param(ROWS + '{"text": "<script>alert(1)</script>"}\n', id="html", marks=SLOW),
        pytest.param(
            ROWS + '{"text": "\\u001b[2J\\u001b]0;x\\u0007\\u202e"}\n', id="escape-codes-in-a-text", marks=SLOW,
        ),
        pytest.param(ROWS + '{"text": "x", "n": 123456789012345678901234567890}\n', id="long-numbers"),
        pytest.param(ROWS + '{"text": "' + "x" * 2_000_000 + '"}\n', id="book", marks=SLOW),
        pytest.param(ROWS + nested(62), id="62-lists", marks=SLOW),
        pytest.param(ROWS + objects(62), id="62-objects", marks=SLOW),
        pytest.param(ROWS + objects(31).replace("1", "[" * 31 + "1" + "]" * 31), id="62-levels"),
    ],
)  # fmt: skip
def test_odd_rows_are_read(attack, tmp_path, rows):
    (tmp_path / "rows.jsonl").write_text(rows)
    ran = attack(*CHECK, "rows.jsonl")
    assert ran.status == 0 and "rows, 2" in ran.output, ran


@pytest.mark.hostile("rows")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("rows.txt", lambda: "short\n" * 20 + "x" * 20_000_000, LONG, id="long-line"),
        pytest.param("rows.jsonl", ROWS + nested(900), DEEP, id="deep"),
        pytest.param("rows.jsonl.gz", lambda: bomb(200), BOMBS, id="bomb", marks=SLOW),
    ],
)
def test_streams_have_the_same_limits(attack, tmp_path, name, content, message):
    write(tmp_path / name, content)
    ran = attack(*CHECK, json.dumps([{"path": name, "streaming": True, "rows": 10}]))
    assert ran.status == 1 and re.search(message, ran.output), ran


def test_a_limit_can_be_raised(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text(ROWS + json.dumps({"text": "x" * 1000}))
    source = {"path": str(tmp_path / "rows.jsonl"), "split": "train"}
    monkeypatch.setenv("HFKIT_MAX_ROW_BYTES", "500")
    with pytest.raises(HfkitError, match=r"line 21: it has more than 500 bytes.*HFKIT_MAX_ROW_BYTES"):
        read_rows(source)
    monkeypatch.setenv("HFKIT_MAX_ROW_BYTES", "2000")
    assert len(read_rows(source)[0]) == 21


@pytest.mark.parametrize(("name", "kind"), [("rows.txt.gz", "text"), ("rows.csv.gz", "csv"), ("rows.jsonl.gz", "json")])
def test_compressed_rows_are_those_of_the_file(tmp_path, name, kind):
    text = ROWS if kind == "json" else "text\n" * (kind == "csv") + "".join(f"row {index}\n" for index in range(20))
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    rows, is_csv = read_rows({"path": str(tmp_path / name), "split": "train"})
    assert len(rows) == 20 and rows.column_names == ["text"] and is_csv == (kind == "csv")
