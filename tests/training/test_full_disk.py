"""A full disk ends a run in one sentence, with its last whole checkpoint; with room again it ends as if undisturbed."""

import shutil
import subprocess
from functools import cache

import pytest
from full_disk import largest_file
from interruption import assert_same_run
from transformers import TrainerCallback

from hfkit.commands.export.main import export
from hfkit.commands.merge import merge
from hfkit.commands.report.main import write_report
from hfkit.core.errors import HfkitError
from hfkit.core.explain_errors import FullDiskError
from hfkit.records.record import read_record
from hfkit.stages import sft
from hfkit.training.checkpoints import checkpoint_fault, checkpoints_in

STAGES = ["pretrain", "sft", "reward", "ppo"]
CHANGES = {"save_steps": 1, "max_steps": 4, "test_split_size": 4, "resume_from_checkpoint": True}


@pytest.fixture(scope="module")
def whole(run_stage, tmp_path_factory):
    """The undisturbed run of a stage."""
    return cache(lambda stage: run_stage(stage, tmp_path_factory.mktemp(stage) / "whole", **CHANGES))


def size_of(whole, pattern: str) -> int:
    return max(path.stat().st_size for path in whole.glob(pattern))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_file_that_cannot_be_written_is_explained_and_the_run_goes_on(run_stage, whole, tmp_path, stage):
    """One file after the other is too large, then one that the last checkpoint of a resumed run has."""
    folder = tmp_path / "run"
    for file in ("hfkit.json", "checkpoint-4/*model.safetensors", "checkpoint-4/optimizer.pt"):
        with pytest.raises(FullDiskError, match=f"no space left in {folder} .*free some, then start again"):
            with largest_file(size_of(whole(stage), file) - 1):
                run_stage(stage, folder, **CHANGES)
        assert {path.name for path in folder.iterdir()} <= {"hfkit.json", "metrics.jsonl", "row_hashes.npz"}
    shutil.rmtree(folder)
    shutil.copytree(whole(stage), folder, ignore=shutil.ignore_patterns("checkpoint-4", "*.safetensors", ".*"))
    shutil.copytree(whole(stage) / "checkpoint-3", folder / "checkpoint-3", dirs_exist_ok=True)
    record = (folder / "hfkit.json").read_text().replace('"status": "done"', '"status": "running"')
    (folder / "hfkit.json").write_text(record)
    with pytest.raises(FullDiskError, match="free some, then start again to resume from checkpoint-3"):
        with largest_file(size_of(folder, "checkpoint-3/optimizer.pt") - 1):
            run_stage(stage, folder, **CHANGES)
    assert [path.name for path in checkpoints_in(folder)] == ["checkpoint-3"]
    assert read_record(folder)["status"] == "failed"
    run_stage(stage, folder, **CHANGES)
    assert_same_run(folder, whole(stage))


def test_a_folder_that_is_removed_while_a_run_writes_is_named(config_of, monkeypatch, tmp_path):
    config, folder = config_of("sft", tmp_path / "run", logging_steps=1, save_strategy="no"), tmp_path / "run"

    class Remove(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            shutil.rmtree(folder)

    own = sft.set_callbacks
    monkeypatch.setattr(sft, "set_callbacks", lambda trainer, run, *more: own(trainer, run, *more, Remove()))
    with pytest.raises(HfkitError, match=f"^{folder} was removed while hfkit wrote into it"):
        sft.main(config)


def fails_for_lack_of_space(verb, *arguments) -> None:
    with pytest.raises(HfkitError, match=r"no space left in .*: free some"), largest_file(4000):
        verb(*arguments)


def test_a_full_disk_leaves_nothing_of_a_merge_an_export_or_a_report(sft_dir, base_dir, tmp_path):
    fails_for_lack_of_space(merge, str(sft_dir), tmp_path / "merged")
    fails_for_lack_of_space(export, str(base_dir), tmp_path / "exported", "vllm")
    assert not [*tmp_path.iterdir()]
    folder = shutil.copytree(sft_dir, tmp_path / "sft", ignore=shutil.ignore_patterns("checkpoint-*"))
    before = {path.name for path in folder.iterdir()}
    fails_for_lack_of_space(write_report, folder)
    assert {path.name for path in folder.iterdir()} - before <= {"report"}
    assert write_report(folder).is_file()


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
