"""A full disk ends a run in one sentence, with its last whole checkpoint; with room again it ends as if undisturbed."""

import resource
import shutil
import subprocess
from contextlib import contextmanager
from functools import cache

import pytest
from interruption import assert_same_run
from quick import mostly_slow

from hfkit.core.errors import HfkitError
from hfkit.core.explain_errors import FullDiskError
from hfkit.records.record import read_record
from hfkit.training.run import checkpoint_fault, checkpoints_in

STAGES = ["pretrain", "sft", "reward", "ppo"]
CHANGES = {"save_steps": 1, "max_steps": 4, "test_split_size": 4, "resume_from_checkpoint": True}


@contextmanager
def largest_file(size: int):
    """No file of this process may grow beyond `size` bytes in the block, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def whole(run_stage, tmp_path_factory):
    """The undisturbed run of a stage."""
    return cache(lambda stage: run_stage(stage, tmp_path_factory.mktemp(stage) / "whole", **CHANGES))


@pytest.mark.parametrize("file", ["hfkit.json", "checkpoint-4/*model.safetensors", "checkpoint-4/optimizer.pt"])
@pytest.mark.parametrize("stage", mostly_slow(STAGES, ["sft", "ppo"]))
def test_a_file_that_cannot_be_written_is_explained_and_the_run_goes_on(run_stage, whole, tmp_path, stage, file):
    size = max(path.stat().st_size for path in whole(stage).glob(file))
    folder = tmp_path / "run"
    with pytest.raises(FullDiskError, match=f"no space left in {folder} .*free some, then start again"):
        with largest_file(size - 1):
            run_stage(stage, folder, **CHANGES)
    assert {path.name for path in folder.iterdir()} <= {"hfkit.json", "metrics.jsonl", "row_hashes.npz"}
    run_stage(stage, folder, **CHANGES)
    assert_same_run(folder, whole(stage))


@pytest.mark.parametrize("stage", mostly_slow(STAGES, ["sft", "ppo"]))
def test_the_last_whole_checkpoint_is_kept_and_named(run_stage, whole, tmp_path, stage):
    """The disk is full when the run is resumed."""
    folder = tmp_path / "run"
    shutil.copytree(whole(stage), folder, ignore=shutil.ignore_patterns("checkpoint-4", "*.safetensors", ".*"))
    shutil.copytree(whole(stage) / "checkpoint-3", folder / "checkpoint-3", dirs_exist_ok=True)
    record = (folder / "hfkit.json").read_text().replace('"status": "done"', '"status": "running"')
    (folder / "hfkit.json").write_text(record)
    size = (folder / "checkpoint-3" / "optimizer.pt").stat().st_size
    with pytest.raises(FullDiskError, match="free some, then start again to resume from checkpoint-3"):
        with largest_file(size - 1):
            run_stage(stage, folder, **CHANGES)
    assert [path.name for path in checkpoints_in(folder)] == ["checkpoint-3"]
    assert read_record(folder)["status"] == "failed"
    run_stage(stage, folder, **CHANGES)
    assert_same_run(folder, whole(stage))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_is_full_at_any_moment(run_stage, whole, tmp_path, stage):
    """Disks of growing sizes, until one is large enough: each size fails at another write."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root can mount a disk")
    failures = 0
    try:
        for size in range(8, 2000, 28):
            shutil.rmtree(disk / "run", ignore_errors=True)
            subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
            try:
                run_stage(stage, disk / "run", **CHANGES)
                break
            except HfkitError as error:
                assert "no space left in" in str(error), str(error)
                failures += 1
            assert all(checkpoint_fault(path) is None for path in checkpoints_in(disk / "run"))
            subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
            run_stage(stage, disk / "run", **CHANGES)
            assert_same_run(disk / "run", whole(stage))
    finally:
        subprocess.run(["umount", disk], check=True)
    assert failures > 3
