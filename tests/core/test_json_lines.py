"""Files of JSON lines that only grow."""

import stat

import pytest
from full_disk import largest_file

from hfkit.core.json_lines import append_lines, read_appended

ROWS = [{"a": "\u2028Ünïcode"}, {"b": [1, None]}]


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
    path = tmp_path / "rows.jsonl"
    append_lines(path, ROWS)
    with largest_file(path.stat().st_size + 5), pytest.raises(OSError, match="5 of 10 bytes written"):
        append_lines(path, [{"c": 12}])
    append_lines(path, ROWS)
    assert read_appended(path) == ROWS * 2
