"""What a run prints about its held-out rows: metrics of evaluations, and which step it ends at and publishes."""

import pytest

HELD_OUT = {"test_split_size": 2, "max_steps": 2}
EVALUATED = {**HELD_OUT, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}


@pytest.mark.parametrize("stage", ["reward", pytest.param("dpo", marks=pytest.mark.slow)])
def test_metrics_at_the_end_are_printed_without_evaluations_in_training(run_stage, tmp_path, capsys, stage):
    run_stage(stage, tmp_path / "out", **HELD_OUT)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{stage}: step 2, held out: ")]
    assert "loss 0." in line and "accuracy" in line


@pytest.mark.parametrize("stage", [pytest.param("ppo", marks=pytest.mark.slow), "grpo"])
def test_reward_and_kl_and_the_end_are_printed(run_stage, tmp_path, capsys, stage):
    changes = {"early_stopping_patience": 1, "load_best_model_at_end": True, "learning_rate": 0.0, "max_steps": 3}
    run_stage(stage, tmp_path / "out", **{**EVALUATED, **changes})
    printed = capsys.readouterr().out
    assert f"{stage}: step 1, held out: reward " in printed and ", KL 0.00" in printed
    assert f"{stage}: stopped at step 2: eval_reward has not improved in 1 evaluations since step 1" in printed
    assert f"{stage}: the weights of step 1 are published, the best by eval_reward" in printed
    assert f"{stage}: held out: reward " in printed
