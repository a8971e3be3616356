"""The next command on a folder removes files of killed processes, but not those of others."""

import os
import subprocess
import time

import pytest

from hfkit.core.files import write_json
from hfkit.core.locks import lock_folder
from hfkit.core.temporary import OLD, machine, temporary_folder, temporary_path
from hfkit.training.run import Run


@pytest.fixture(scope="module")
def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("name", "age", "stays"),
    [
        (".ppo_state.json.{here}.{gone}.tmp", 0, False),
        (".row_hashes.npz.{here}.{gone}.tmp", 0, False),
        (".README.md.{here}.99999999999999999999.tmp", 0, False),
        (".hfkit.json.{here}.1.tmp", 2 * OLD, True),
        (".hfkit.json.{here}.{own}.tmp", 2 * OLD, True),
        (".hfkit.json.0123abcd.{gone}.tmp", OLD / 2, True),  # another machine's
        (".hfkit.json.0123abcd.{gone}.tmp", 2 * OLD, False),
        (".evaluation.json.{gone}.tmp", OLD / 2, True),  # an earlier version's
        (".evaluation.json.{gone}.tmp", 2 * OLD, False),
        ("notes.{here}.{gone}.tmp", 2 * OLD, True),
        (".notes.tmp", 2 * OLD, True),
        (".notes.{here}.{gone}", 2 * OLD, True),
        (".{gone}.tmp", 2 * OLD, True),
    ],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_only_what_a_process_that_is_gone_was_writing_is_removed(tmp_path, gone, kind, name, age, stays):
    path = tmp_path / name.format(here=machine(), gone=gone, own=os.getpid())
    path.write_text("half") if kind == "file" else (path / "within").mkdir(parents=True)
    os.utime(path, (time.time() - age,) * 2)
    with lock_folder(tmp_path):
        assert path.exists() == stays


def test_a_file_or_a_folder_that_is_not_finished_goes_with_its_block(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_json(tmp_path / "a.json", "\ud800")
    with pytest.raises(ZeroDivisionError), temporary_folder(tmp_path / "b") as folder:
        assert folder == temporary_path(tmp_path / "b") and folder.is_dir()
        raise ZeroDivisionError
    assert not [*tmp_path.iterdir()]


def test_half_checkpoints_and_publications_of_a_killed_run_are_removed(config_of, tmp_path, gone):
    folder = tmp_path / "out"
    kept = ["checkpoint-3/trainer_state.json", "checkpoint-x/weights", "mine/checkpoint-1/weights"]
    left = ["checkpoint-4/weights", "checkpoint-5/.ppo_state.json.1.tmp", ".publishing/weights"]
    left += [f".hfkit.json.{machine()}.{gone}.tmp"]
    run = Run("tokenizer", config_of("tokenizer", folder), {}, [])
    for name in (*kept, *left):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    with run.training():
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {*kept, "hfkit.json"}
