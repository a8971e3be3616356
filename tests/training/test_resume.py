"""A run that was stopped and goes on ends in the same weights as one that was not."""

import json
from functools import cache

import pytest
from interruption import assert_same_run, curves, stopped_copy
from quick import mostly_slow

from hfkit.core.errors import HfkitError
from hfkit.records.record import read_record
from hfkit.training.checkpoint_state import resume_warning

STAGES = ["pretrain", "sft", "reward", "dpo"]
CHANGES = {"save_total_limit": None, "eval_strategy": "steps", "eval_steps": 2, "test_split_size": 8, "max_steps": 6}
CHANGES |= {"logging_steps": 2}  # at step 3 half of what is logged next is known
CHANGES |= {"eval_on_start": True}


@pytest.fixture(scope="module")
def whole(run_stage, tmp_path_factory):
    """The uninterrupted run of a stage: 6 steps, checkpoints after 3 and 6."""
    return cache(lambda stage: run_stage(stage, tmp_path_factory.mktemp(stage) / "whole", **CHANGES))


@pytest.mark.any_device
@pytest.mark.parametrize("step", mostly_slow([3, 6], [3]))
@pytest.mark.parametrize("stage", mostly_slow(STAGES, ["pretrain", "sft"]))
def test_resumed_is_uninterrupted_bit_for_bit(run_stage, whole, tmp_path, stage, step):
    folder = stopped_copy(whole(stage), tmp_path / "stopped", step)
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    state["stateful_callbacks"]["KeepsLogs"]["seconds"] = 1000.0
    (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    run_stage(stage, folder, **CHANGES, resume_from_checkpoint=True)
    assert_same_run(folder, whole(stage))
    record = read_record(folder)
    assert record["resumed_from"] == f"checkpoint-{step}"
    assert 1000 <= record["train_seconds"] <= record["wall_seconds"] < 2000
    assert record["tokens_per_second"] == pytest.approx(record["tokens"] / record["train_seconds"], abs=0.1)


@pytest.mark.parametrize("processes", [1, 2])
def test_another_number_of_processes_is_warned_of(run_stage, whole, tmp_path, processes):
    """A step of one process has half the rows of a step of two, and other rows of the epoch are skipped."""
    folder = stopped_copy(whole("sft"), tmp_path / "stopped", 3)
    record = read_record(folder)
    record["environment"]["processes"] = processes
    (folder / "hfkit.json").write_text(json.dumps(record))
    run_stage("sft", folder, **CHANGES, resume_from_checkpoint=True)
    warnings = [warning for warning in read_record(folder)["warnings"] if "resumes with 1" in warning]
    assert len(warnings) == processes - 1


def test_a_lost_random_state_is_named(tmp_path):
    before = {"environment": {"processes": 2}}
    (tmp_path / "rng_state_0.pth").touch()
    assert "has no rng_state_1.pth:" in resume_warning(tmp_path, before, before)
    (tmp_path / "rng_state_1.pth").touch()
    assert resume_warning(tmp_path, before, before) is None


def test_a_half_written_checkpoint_is_passed_over(run_stage, whole, tmp_path):
    folder = stopped_copy(whole("sft"), tmp_path / "stopped", 3)
    (folder / "checkpoint-6").mkdir()
    (folder / "checkpoint-6" / "adapter_model.safetensors").write_bytes(b"half")
    run_stage("sft", folder, **CHANGES, resume_from_checkpoint=True)
    assert_same_run(folder, whole("sft"))


def test_an_interrupted_run_is_resumed_only_on_request(run_stage, whole, tmp_path):
    folder = stopped_copy(whole("sft"), tmp_path / "stopped", 3)
    before = curves(folder)
    with pytest.raises(HfkitError, match=r"interrupted run \(last checkpoint: checkpoint-3\)"):
        run_stage("sft", folder, **CHANGES)
    assert curves(folder) == before


def test_a_run_stopped_before_its_first_checkpoint_begins_again(run_stage, whole, tmp_path):
    folder = stopped_copy(whole("sft"), tmp_path / "stopped", 0)
    run_stage("sft", folder, **CHANGES)
    assert_same_run(folder, whole("sft"))


EVERY_3 = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 3, "eval_steps": 3}
UNCHANGED = {**EVERY_3, "eval_on_start": True, "early_stopping_patience": 1, "learning_rate": 0.0}


@pytest.mark.parametrize(
    ("stage", "settings"),
    mostly_slow([("sft", {"logging_strategy": "no"}), ("sft", UNCHANGED), ("pretrain", UNCHANGED)], []),
)
def test_what_depends_on_all_steps_continues(run_stage, tmp_path, stage, settings):
    """The mean loss of a run that logs nothing, and the patience that an evaluation before the first step would use."""
    settings = CHANGES | settings
    uninterrupted = run_stage(stage, tmp_path / "whole", **settings)
    folder = stopped_copy(uninterrupted, tmp_path / "stopped", 3)
    run_stage(stage, folder, **settings, resume_from_checkpoint=True)
    assert_same_run(folder, uninterrupted)
    assert read_record(str(folder)).get("stopped") == read_record(str(uninterrupted)).get("stopped")
