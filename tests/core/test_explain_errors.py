"""Errors of files are explained in one line that names the place and the remedy; other errors are not touched."""

import errno
import os

import pytest

from hfkit.cli import main
from hfkit.core.explain_errors import FullDiskError, explain_file_error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:667] . unexpected pos 64 vs 0"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
    ids=lambda error: str(error)[:30],
)
def test_a_failed_write_says_where(tmp_path, error):
    wrapped = ValueError("An error occurred while generating the dataset")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        explained = explain_file_error(one, tmp_path)
        assert isinstance(explained, FullDiskError)
        assert str(tmp_path) in str(explained)


def test_a_read_only_cache_names_hf_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "datasets"))
    assert "Read-only file system" in str(explain_file_error(error)) and "set HF_HOME" in str(explain_file_error(error))


@pytest.mark.parametrize("error", [ValueError("28"), FileNotFoundError(2, "No such file"), RuntimeError("no space")])
def test_other_errors_pass(error, tmp_path):
    assert explain_file_error(error, tmp_path) is None


def test_without_a_home_the_command_says_what_to_set(monkeypatch, capsys):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry in /etc/passwd
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert main(["lineage", "somewhere"]) == 1
    assert "HOME is not set" in capsys.readouterr().err
