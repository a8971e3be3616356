"""Errors of files are explained in one line that names the path and the remedy; other errors are not changed."""

import errno
import json
import os
from types import SimpleNamespace

import pytest

from hfkit.cli import main
from hfkit.commands.number_arguments import within
from hfkit.core.errors import HfkitError
from hfkit.core.explain_errors import FullDiskError, explain_errors, explain_file_error


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
def test_a_failed_write_names_the_path(tmp_path, error):
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


@pytest.mark.parametrize("code", [errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG])
def test_a_folder_instead_of_a_file_is_named(tmp_path, code):
    explained = explain_file_error(OSError(code, os.strerror(code), str(tmp_path / "x")))
    assert str(explained).startswith(f"{tmp_path / 'x'}: {os.strerror(code)}: remove it, or choose another")


def test_an_error_of_a_library_names_extra_keys_and_an_own_bug_passes(tmp_path):
    config = SimpleNamespace(extra={"adam_beta1": 0.9})
    with pytest.raises(HfkitError, match=r"JSONDecodeError: .* passes adam_beta1 to the trainer unchecked"):
        with explain_errors(tmp_path, config):
            json.loads("x")
    with pytest.raises(TypeError), explain_errors(tmp_path, config):
        within(float, low=None)("3")


@pytest.mark.parametrize(
    ("code", "reported"),
    [
        (errno.EIO, "Input/output error: check the disk"),
        (errno.ESTALE, "Stale file handle: check the disk"),
        (errno.EROFS, "Read-only file system: choose another folder"),
        (errno.EMFILE, "raise the limit, such as with `ulimit -n 4096`"),
    ],
)
def test_a_failing_disk_is_named_with_a_remedy(tmp_path, code, reported):
    file = tmp_path / "checkpoint-3" / "model.safetensors"
    message = str(explain_file_error(OSError(code, os.strerror(code), str(file)), tmp_path))
    assert reported in message and str(file) in message
    if code != errno.EROFS:  # in words, without a file, as from Rust
        assert reported in str(explain_file_error(Exception(f"{os.strerror(code)} (os error {code})"), tmp_path))


def test_a_folder_that_was_removed_is_named_and_a_missing_file_is_not(tmp_path):
    inner = tmp_path / "checkpoint-3"
    lost = FileNotFoundError(errno.ENOENT, "No such file or directory", str(inner / "model.safetensors"))
    assert str(explain_file_error(lost, tmp_path)).startswith(f"{inner} was removed while hfkit wrote into it")
    assert explain_file_error(lost) is None
    inner.mkdir()
    assert explain_file_error(lost, tmp_path) is None
    elsewhere = FileNotFoundError(errno.ENOENT, "No such file or directory", "/nowhere/rows.jsonl")
    assert explain_file_error(elsewhere, tmp_path) is None
