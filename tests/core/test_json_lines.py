"""Files of JSON lines that only grow."""

import stat
import subprocess
import sys

import pytest

from hfkit.core.json_lines import append_lines, read_appended

ROWS = [{"a": "\u2028Ünïcode"}, {"b": [1, None]}]
FILL = """
import resource, signal, sys
from pathlib import Path
from hfkit.core.json_lines import append_lines
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
append_lines(path, [{"a": 1}])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    append_lines(path, [{"b": "x" * 200}])
except OSError:
    append_lines(path, [{"c": 1}])
"""


def test_rows_come_back(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_appended(path) == []
    append_lines(path, ROWS[:1], 0o600)
    append_lines(path, ROWS[1:])
    assert read_appended(path) == ROWS and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("tail", [b'{"c": ', b'{"c": "\xc3'])
def test_a_line_that_was_cut_off_is_removed(tmp_path, tail):
    path = tmp_path / "rows.jsonl"
    append_lines(path, ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert read_appended(path) == ROWS and path.read_bytes() == whole


def test_a_last_line_without_a_line_break_gets_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}')
    assert read_appended(path) == [{"a": 1}] and path.read_text() == '{"a": 1}\n'


@pytest.mark.parametrize("content", [b"text\nmore", b'{\n  "a": 1\n}', b"1\n", b"\xff\n{", b"text"])
def test_a_file_of_something_else_does_not_change(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="line 1"):
        read_appended(path)
    assert path.read_bytes() == content


def test_a_write_that_fails_halfway_leaves_nothing(tmp_path):
    subprocess.run([sys.executable, "-c", FILL, tmp_path / "rows.jsonl"], check=True)
    assert read_appended(tmp_path / "rows.jsonl") == [{"a": 1}, {"c": 1}]
