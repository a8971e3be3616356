"""With `load_best_model_at_end`, record, card and weights are all those of the best checkpoint."""

from itertools import product

import pytest
from interruption import assert_same_run, stopped_copy
from quick import mostly_slow, slow
from safetensors.torch import load_file

from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record

# The loss falls, so the highest is that of the first evaluation; PPO's entropy falls too.
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "test_split_size": 4, "save_total_limit": 9}
BEST = {**EVALUATED, "load_best_model_at_end": True, "max_steps": 6}
CHANGES = {
    stage: {**BEST, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    for stage in ("pretrain", "sft", "reward")
}
CHANGES["ppo"] = {**BEST, "metric_for_best_model": "eval_entropy"}
QUICK = ["sft", "reward"]
WEIGHTS = {"pretrain": "model", "sft": "adapter_model", "reward": "adapter_model"}


@pytest.fixture(scope="module")
def best_run(run_stage, tmp_path_factory):
    """The run of a stage whose best checkpoint is that of step 2."""
    made = {}

    def make(stage: str):
        if stage not in made:
            made[stage] = run_stage(stage, tmp_path_factory.mktemp(stage) / "whole", **CHANGES[stage])
        return made[stage]

    return make


@pytest.mark.parametrize("stage", mostly_slow(CHANGES, QUICK))
def test_the_record_and_the_card_say_which_step_is_published(best_run, stage):
    record = read_record(best_run(stage))
    assert (record["best_step"], record["steps"]) == (2, 6)
    assert f"those of step 2, where `{record['best_metric']}` was best" in (best_run(stage) / "README.md").read_text()


@pytest.mark.parametrize("stage", mostly_slow(WEIGHTS, QUICK))
def test_the_weights_are_those_of_the_best_checkpoint(best_run, stage):
    name = f"{WEIGHTS[stage]}.safetensors"
    published, best, last = (load_file(best_run(stage) / part / name) for part in ("", "checkpoint-2", "checkpoint-6"))
    assert all((published[key] == best[key]).all() for key in best)
    assert any((published[key] != last[key]).any() for key in last)


@pytest.mark.parametrize("stage", mostly_slow(["pretrain", "sft"], QUICK))
def test_the_held_out_metrics_are_those_of_the_best_step(best_run, stage):
    at_step = {row["step"]: row["eval_loss"] for row in read_metrics(best_run(stage)) if "eval_loss" in row}
    metrics = read_record(best_run(stage))["metrics"]
    assert metrics["eval_loss"] == at_step[2] != at_step[6]
    losses = [row["loss"] for row in read_metrics(best_run(stage)) if "loss" in row and row["step"] <= 2]
    assert metrics["train_loss"] == pytest.approx(sum(losses) / len(losses))


@pytest.mark.slow
def test_the_pairs_are_ranked_by_the_published_reward_model(best_run, run_stage, tmp_path):
    """A run that ends at the best step has the same metrics on the held-out pairs."""
    changes = {**CHANGES["reward"], "lr_scheduler_type": "constant"}
    unchosen = dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"))
    short = run_stage("reward", tmp_path / "short", **{**changes, **unchosen, "max_steps": 2})
    best = run_stage("reward", tmp_path / "best", **changes)
    assert read_record(best)["best_step"] == 2
    assert read_record(best)["metrics"] == read_record(short)["metrics"]


@pytest.mark.slow
def test_the_trend_of_ppo_ends_at_the_best_step(best_run):
    metrics = read_record(best_run("ppo"))["metrics"]
    at_step = {row["step"]: row["objective/kl"] for row in read_metrics(best_run("ppo")) if "objective/kl" in row}
    assert metrics["kl_last"] == pytest.approx(at_step[2])
    evaluated = {row["step"]: row["eval_kl"] for row in read_metrics(best_run("ppo")) if "eval_kl" in row}
    assert metrics["eval_kl"] == pytest.approx(evaluated[2], abs=1e-5)


@pytest.mark.parametrize(("stage", "step"), mostly_slow(product(("sft", "ppo"), (4, 6)), [("sft", 6)]))
def test_a_resumed_run_in_a_moved_folder_publishes_the_best_checkpoint(best_run, run_stage, tmp_path, stage, step):
    folder = stopped_copy(best_run(stage), tmp_path / "moved", step, "checkpoint-2")
    run_stage(stage, folder, **CHANGES[stage], resume_from_checkpoint=True)
    assert_same_run(folder, best_run(stage))
    record = read_record(folder)
    assert (record["best_step"], record["resumed_from"]) == (2, f"checkpoint-{step}")


@pytest.mark.parametrize(("stage", "metric"), [("sft", "eval_loss"), slow("ppo", "eval_kl")])
def test_a_lost_best_checkpoint_is_reported(best_run, run_stage, tmp_path, capsys, stage, metric):
    folder = stopped_copy(best_run(stage), tmp_path / "moved", 4)
    run_stage(stage, folder, **CHANGES[stage], resume_from_checkpoint=True)
    at_step = {row["step"]: row[metric] for row in read_metrics(folder) if metric in row}
    record = read_record(folder)
    assert record["best_step"] == 6
    assert record["metrics"][metric] == pytest.approx(at_step[6], abs=1e-5)
    assert "checkpoint-2, cannot be read" in capsys.readouterr().err


def test_a_best_step_without_a_checkpoint_is_reported(run_stage, tmp_path, capsys):
    folder = run_stage("sft", tmp_path / "out", **{**CHANGES["sft"], "save_steps": 4, "max_steps": 8})
    assert "eval_loss was best at step 2, which has no checkpoint" in capsys.readouterr().err
    at_step = {row["step"]: row["eval_loss"] for row in read_metrics(folder) if "eval_loss" in row}
    assert read_record(folder)["metrics"]["eval_loss"] == at_step[8]
