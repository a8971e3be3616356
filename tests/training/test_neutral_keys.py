"""Keys that change no weight make no other run: what was begun resumes, and what is done is found."""

import shutil
from dataclasses import fields

import pytest
from quick import mostly_slow

from hfkit.config.neutral_keys import (
    LOGGING,
    NOT_RECORDED,
    PROCESSES,
    REPORTING,
    SAVING,
    THRESHOLDS,
    VLLM,
    neutral_keys,
)
from hfkit.config.registry import STAGES
from hfkit.config.trainer_fields import METRIC_SCHEDULES
from hfkit.core.errors import HfkitError
from hfkit.core.files import write_json
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record, weights_hash

OTHER = {"logging_steps": 2, "save_steps": 1, "save_total_limit": 9, "run_name": "mine", "dataset_num_proc": 1}
OTHER |= {"max_dropped": 0.5, "disable_tqdm": False}


def interrupted_at(folder, step: int) -> None:
    """Make a finished run one that was interrupted after a checkpoint."""
    record = read_record(folder) | {"status": "running"}
    write_json(folder / "hfkit.json", record)
    for checkpoint in folder.glob("checkpoint-*"):
        if checkpoint.name != f"checkpoint-{step}":
            shutil.rmtree(checkpoint)


@pytest.mark.parametrize("stage", mostly_slow(["sft", "ppo"], ["sft"]))
def test_a_resumed_run_takes_them_and_ends_with_the_same_weights(run_stage, tmp_path, stage):
    folder = tmp_path / "out"
    run_stage(stage, folder, save_steps=1 if stage == "ppo" else 3, save_total_limit=None)
    before = weights_hash(folder)
    interrupted_at(folder, 1 if stage == "ppo" else 3)
    other = {key: value for key, value in OTHER.items() if (stage, key) != ("ppo", "disable_tqdm")}  # which PPO refuses
    run_stage(stage, folder, **other, resume_from_checkpoint=True)
    record = read_record(folder)
    assert weights_hash(folder) == before
    assert {key: record["config"][key] for key in other} == other
    run_stage(stage, folder, run_name="another", save_steps=2, resume_from_checkpoint=True)
    assert read_record(folder) == record  # it is done, as it was made
    if stage == "sft":
        assert {path.name for path in folder.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in (3, 4, 5, 6)}
        assert [row["step"] for row in read_metrics(folder) if "loss" in row] == [1, 2, 3, 4, 6]


def test_a_finished_run_is_found_and_takes_a_license(run_stage, tmp_path, capsys):
    folder = tmp_path / "out"
    run_stage("tokenizer", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("README.md", "hfkit.json")}
    run_stage("tokenizer", folder, license="apache-2.0")
    assert "already done" in capsys.readouterr().out
    assert "license: apache-2.0" in (folder / "README.md").read_text()
    assert read_record(folder)["config"]["license"] == "apache-2.0"
    run_stage("tokenizer", folder)  # one without a license keeps it
    assert read_record(folder)["config"]["license"] == "apache-2.0"
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("README.md", "hfkit.json")}
    assert after == before
    with pytest.raises(HfkitError, match="seed: was 42, now 7"):
        run_stage("tokenizer", folder, seed=7, license="mit")


@pytest.mark.parametrize(
    "choice",
    [
        {"load_best_model_at_end": True},
        {"early_stopping_patience": 2},
        *({"lr_scheduler_type": one} for one in METRIC_SCHEDULES),
    ],
)
def test_when_evaluations_decide_what_is_published_saving_counts(choice):
    assert "save_steps" in neutral_keys({}) and "logging_steps" in neutral_keys({})
    assert not {*SAVING, *LOGGING} & neutral_keys({**choice, "eval_strategy": "steps"})
    own_steps = neutral_keys({**choice, "eval_strategy": "steps", "eval_steps": 50})
    assert {*LOGGING} <= own_steps and not {*SAVING} & own_steps
    assert {"license", "run_name", "hub_model_id"} <= neutral_keys(choice)


def test_every_one_is_a_key():
    keys = {*LOGGING, *SAVING, *REPORTING, *PROCESSES, *VLLM, *THRESHOLDS, *NOT_RECORDED}
    classes = [spec.config_class for spec in STAGES.values()]
    known = {field.name for one in classes for field in fields(one)}
    trainer = {
        field.name for one in classes if one.trainer_config_class() for field in fields(one.trainer_config_class())
    }
    assert keys <= known | trainer
