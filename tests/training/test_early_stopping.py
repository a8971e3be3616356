"""Early stopping in the stages that Transformers' loop trains: when it stops, what is published, and resuming."""

import json

import pytest
from interruption import assert_same_run, stopped_copy
from quick import mostly_slow, slow
from safetensors.torch import load_file

from hfkit.core.errors import ConfigError
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record
from hfkit.training.arguments import trainer_arguments

EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "test_split_size": 4, "save_total_limit": 9}
# the loss falls, so that the highest is that of the first evaluation
RISING = {**EVALUATED, "metric_for_best_model": "eval_loss", "greater_is_better": True, "early_stopping_patience": 3}

SLOW = pytest.param("reward", 3, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def stopped_run(run_stage, tmp_path_factory):
    """A run of a stage that stopped at step 4, three evaluations after the best."""
    made = {}

    def make(stage: str):
        if stage not in made:
            changes = {**RISING, "load_best_model_at_end": True, "max_steps": 9}
            made[stage] = run_stage(stage, tmp_path_factory.mktemp(stage) / "whole", **changes), changes
        return made[stage]

    return make


@pytest.mark.parametrize("stage", mostly_slow(["sft", "reward", "pretrain"], ["sft"]))
def test_a_run_stops_when_patience_is_at_an_end_and_publishes_the_best(stopped_run, stage):
    folder, _ = stopped_run(stage)
    record = read_record(folder)
    losses = {row["step"]: row["eval_loss"] for row in read_metrics(folder) if "eval_loss" in row}
    assert max(step for step in losses) == record["steps"] == 4 and record["best_step"] == 1
    assert max(losses, key=lambda step: losses[step] if step else 0) == 1
    reason = "eval_loss has not improved in 3 evaluations since step 1 (early_stopping_patience)"
    assert record["stopped"] == reason and f"Training stopped early: {reason}." in (folder / "README.md").read_text()
    name = "model.safetensors" if stage == "pretrain" else "adapter_model.safetensors"
    published, best = load_file(folder / name), load_file(folder / "checkpoint-1" / name)
    assert all((published[key] == best[key]).all() for key in best)


@pytest.mark.parametrize(("stage", "step"), [("sft", 2), slow("sft", 4), SLOW])
def test_a_resumed_run_counts_on_and_stops_at_the_same_step(stopped_run, run_stage, tmp_path, stage, step):
    whole, changes = stopped_run(stage)
    folder = stopped_copy(whole, tmp_path / "resumed", step, "checkpoint-1")
    run_stage(stage, folder, **changes, resume_from_checkpoint=True)
    assert_same_run(folder, whole)
    record = read_record(folder)
    assert (record["steps"], record["best_step"], record["stopped"]) == (4, 1, read_record(whole)["stopped"])


def test_without_load_best_the_last_weights_are_published(run_stage, tmp_path):
    changes = {"early_stopping_patience": 2, "learning_rate": 0.0, "max_steps": 9, "save_strategy": "no"}
    folder = run_stage("sft", tmp_path / "out", **{**EVALUATED, **changes, "save_steps": None})
    record = read_record(folder)
    # at learning rate 0 nothing is better than the first
    assert (record["steps"], record.get("best_step")) == (3, None)
    assert record["stopped"] == "eval_loss has not improved in 2 evaluations (early_stopping_patience)"


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"early_stopping_patience": 2}, ["early_stopping_patience"]),
        ({"early_stopping_patience": 0, **EVALUATED}, ["early_stopping_patience"]),
        (
            {"early_stopping_patience": 2, "load_best_model_at_end": True},
            ["early_stopping_patience", "load_best_model_at_end"],
        ),
        ({**RISING, "metric_for_best_model": "eval_los"}, ["metric_for_best_model"]),
        ({**RISING, "load_best_model_at_end": True, "save_steps": 3, "eval_steps": 2}, ["load_best_model_at_end"]),
    ],
)
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_contradictions_are_reported_before_loading(config_of, tmp_path, stage, changes, keys, sft_dir, no_weights):
    with pytest.raises(ConfigError) as error:
        config_of(stage, tmp_path / "out", **changes)
    assert sorted(problem.key for problem in error.value.problems) == keys


def test_a_perplexity_is_best_where_it_is_lowest(run_stage, tmp_path):
    changes = {**EVALUATED, "metric_for_best_model": "perplexity", "load_best_model_at_end": True, "max_steps": 3}
    folder = run_stage("pretrain", tmp_path / "out", **changes)
    found = {row["step"]: row["eval_perplexity"] for row in read_metrics(folder) if row.get("eval_perplexity")}
    state = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())
    assert read_record(folder)["best_step"] == min(found, key=found.get) == state["best_global_step"]


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
@pytest.mark.parametrize(("metric", "mode"), [("loss", "min"), ("accuracy", "max")])
def test_a_schedule_that_follows_a_metric_knows_where_it_is_best(config_of, tmp_path, schedule, metric, mode):
    settings = {"lr_scheduler_type": schedule, "lr_scheduler_kwargs": {"factor": 0.5, "min_lr": 0.0}}
    config = config_of("reward", tmp_path / "out", **EVALUATED, **settings, metric_for_best_model=metric)
    assert trainer_arguments(config).lr_scheduler_kwargs == {"mode": mode, "factor": 0.5, "min_lr": 0.0}
