"""PPO that was stopped and goes on ends as PPO that was not, bit for bit: weights, optimizer, controllers, curves."""

import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from interruption import assert_same_run, assert_same_tensors, assert_same_values, curves, stopped_copy
from processes import begin
from quick import mostly_slow
from safetensors.torch import load_file

from hfkit.core.device import random_state, restore_random_state
from hfkit.core.files import read_json_mapping, write_json
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record
from hfkit.rlhf.checkpoint import load_random_state, save_random_state
from hfkit.training.checkpoints import checkpoint_fault, last_complete_checkpoint

STEPS = {"max_steps": 6, "save_steps": 3, "save_total_limit": 9}
EVERYTHING = {
    "load_in_4bit": True,
    "kl_target": 0.5,
    "kl_horizon": 40,
    "normalize_rewards": True,
    "ptx_coef": 0.5,
    "value_warmup_steps": 2,
    "num_ppo_epochs": 1,
    "value_learning_rate": 2e-3,
    "entropy_coef": 0.01,
    "weight_decay": 0.01,
    "save_steps": 1,
    "logging_steps": 2,
    "sample_steps": 1,
    "test_split_size": 2,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "metric_for_best_model": "eval_kl",
    "early_stopping_patience": 4,  # the KL is least before the policy's first step: it comes to an end at update 5
}
RUNS = {"plain": {}, "everything": EVERYTHING}


@pytest.fixture(scope="module")
def whole(run_stage, data, tmp_path_factory):
    """The uninterrupted run, and its settings."""
    made = {}

    def make(name: str) -> tuple[Path, dict]:
        if name not in made:
            changes = STEPS | RUNS[name]
            if changes.get("ptx_coef"):
                changes["ptx_datasets"] = [{"path": str(data / "turns.jsonl")}]
            made[name] = run_stage("ppo", tmp_path_factory.mktemp(name) / "whole", **changes), changes
        return made[name]

    return make


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Weights and values, what the optimizer knows, and controllers: the same."""
    for role in ("policy", "value"):
        ours, theirs = (load_file(folder / f"{role}_model.safetensors") for folder in (one, other))
        assert len(ours) > 1
        assert_same_tensors(ours, theirs)
    ours, theirs = (torch.load(folder / "optimizer.pt", weights_only=True) for folder in (one, other))
    assert ours["param_groups"] == theirs["param_groups"]
    assert_same_tensors(ours["state"], theirs["state"])
    ours, theirs = (read_json_mapping(folder / "ppo_state.json") for folder in (one, other))
    controllers = [{k: v for k, v in one["controllers"].items() if k != "monitor"} for one in (ours, theirs)]
    assert_same_values(*controllers)
    assert ours["kept"]["callbacks"] == theirs["kept"]["callbacks"]


@pytest.mark.any_device
@pytest.mark.parametrize("name", mostly_slow(RUNS, ["everything"]))
def test_pain_08_three_updates_and_three_are_six(run_stage, whole, tmp_path, name):
    done, changes = whole(name)
    folder = stopped_copy(done, tmp_path / "stopped", 3)
    state = read_json_mapping(folder / "checkpoint-3" / "ppo_state.json")
    state["kept"]["seconds"] = 1000.0
    write_json(folder / "checkpoint-3" / "ppo_state.json", state)
    run_stage("ppo", folder, **changes, resume_from_checkpoint=True)
    record = read_record(folder)
    assert record["resumed_from"] == "checkpoint-3"
    assert 1000 < record["train_seconds"] <= record["wall_seconds"] < 2000  # those before are counted once
    assert_same_run(folder, done)
    last = last_complete_checkpoint(folder).name
    assert last > "checkpoint-3"
    assert_same_checkpoint(folder / last, done / last)
    if changes.get("sample_steps"):
        assert_same_values(*((one / "rollouts.jsonl").read_text().splitlines() for one in (folder, done)))


@pytest.mark.slow
def test_a_run_that_has_moved_keeps_its_best_checkpoint(run_stage, tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "test_split_size": 2}
    changes = {"max_steps": 3, "save_steps": 1, "save_total_limit": 1, "learning_rate": 0.0, **best}
    done = run_stage("ppo", tmp_path / "whole", **changes)  # nothing is learnt, so the first is the best
    moved = stopped_copy(done, tmp_path / "moved", 1)
    shutil.rmtree(done)
    run_stage("ppo", moved, **changes, resume_from_checkpoint=True)
    assert (moved / "checkpoint-1").is_dir()


def test_the_run_with_everything_used_everything(whole):
    """Or the test above would not see what it should."""
    folder, _ = whole("everything")
    rows = read_metrics(folder)
    logged = [row for row in rows if "objective/kl_coef" in row]
    assert len({row["objective/kl_coef"] for row in logged}) > 1
    assert ["loss/ptx" in row for row in logged] == [False, True, True][: len(logged)]
    state = read_json_mapping(folder / "checkpoint-5" / "ppo_state.json")
    assert state["kept"]["callbacks"]["EarlyStoppingCallback"]["early_stopping_patience_counter"] == 4
    assert read_record(folder)["steps"] == 5


@pytest.mark.parametrize(
    "name",
    ["policy_model.safetensors", "value_model.safetensors", "optimizer.pt", "ppo_state.json", "trainer_state.json"],
)
def test_a_truncated_checkpoint_is_not_resumed(whole, tmp_path, name):
    folder = tmp_path / "checkpoint-5"
    shutil.copytree(whole("everything")[0] / "checkpoint-5", folder)
    assert checkpoint_fault(folder) is None
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    assert name in checkpoint_fault(folder)


def train(config) -> None:
    from hfkit.stages import ppo

    ppo.main(config)


@pytest.mark.slow
@pytest.mark.any_device
def test_killed_in_an_update_it_goes_on_to_the_same_weights(config_of, run_stage, whole, tmp_path):
    done, changes = whole("plain")
    folder = tmp_path / "killed"
    process = begin(train, config_of("ppo", folder, **changes))
    while len(read_metrics(folder)) < 4 and process.poll() is None:
        time.sleep(0.0005)
    process.kill()
    assert read_record(folder)["status"] == "running" and not (folder / "checkpoint-6").exists()
    run_stage("ppo", folder, **changes, resume_from_checkpoint=True)
    assert_same_run(folder, done)
    assert_same_checkpoint(folder / "checkpoint-6", done / "checkpoint-6")
    assert [row["step"] for row in curves(folder)] == [1, 2, 3, 4, 5, 6]


def test_what_reward_functions_draw_goes_on_in_a_resumed_run(tmp_path):
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(()))]

    draw()  # of two normal numbers, NumPy keeps one
    save_random_state(tmp_path, 0)
    drawn = draw()
    load_random_state(tmp_path, 0)
    before = random_state(torch.device("cpu"))
    assert draw() == drawn
    restore_random_state(before, torch.device("cpu"))  # of a step that a signal drops
    assert draw() == drawn
