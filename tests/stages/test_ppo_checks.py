"""Problems of a PPO config are reported by key before anything is loaded."""

import re

import pytest

from hfkit.core.errors import ConfigError, HfkitError
from hfkit.stages.checks.ppo import ppo_problems

LENGTH = "reward_functions:length"
FUNCTION = {"reward_functions": [LENGTH]}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "test_split_size": 2}
OUT_OF_RANGE = {
    "entropy_coef": -0.1,
    "ptx_coef": -1.0,
    "kl_target": 0.0,
    "kl_horizon": 0,
    "reward_clip": 0.0,
    "value_learning_rate": -1e-5,
    "value_warmup_steps": -1,
    "sample_steps": 0,
    "early_stopping_patience": 0,
    "missing_eos_penalty": -1.0,
    "ptx_max_length": 0,
}


def problems_by_key(config_of, tmp_path, **changes) -> dict[str, str]:
    """The problems of a config: key -> the line that is shown."""
    with pytest.raises(ConfigError) as error:
        config_of("ppo", tmp_path, **changes)
    return {problem.key: str(problem) for problem in error.value.problems}


@pytest.mark.parametrize("key", OUT_OF_RANGE)
def test_a_number_outside_its_range(config_of, tmp_path, key):
    problems = problems_by_key(config_of, tmp_path, **{key: OUT_OF_RANGE[key]})
    assert problems.keys() == {key}
    assert repr(OUT_OF_RANGE[key]) in problems[key] and "must" in problems[key]


def test_fp16_of_the_environment_is_reported_before_anything_is_loaded(config_of, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    problems = problems_by_key(config_of, tmp_path)
    assert problems.keys() == {"ACCELERATE_MIXED_PRECISION"}
    assert "set bf16" in problems["ACCELERATE_MIXED_PRECISION"]


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"reward_model_path": None}, "reward_model_path", "or name reward_functions"),
        ({"reward_functions": ["no_such_module:f"]}, "reward_functions[0]", "ModuleNotFoundError"),
        ({"reward_functions": ["math:no_such"]}, "reward_functions[0]", "AttributeError"),
        ({"reward_functions": ["math:pi"]}, "reward_functions[0]", "is not callable"),
        ({"reward_functions": ["math"]}, "reward_functions[0]", "package.module:function"),
        ({"reward_functions": [LENGTH, LENGTH]}, "reward_functions", "names one twice"),
        ({**FUNCTION, "reward_weights": [1.0]}, "reward_weights", f"expected 2.*: reward_model_path, {LENGTH}"),
        ({"reward_weights": [1.0, 2.0]}, "reward_weights", "expected 1"),
        ({"reward_columns": ["answer"]}, "reward_columns", "only reward_functions read columns"),
        ({**FUNCTION, "reward_columns": ["input_ids"]}, "reward_columns", "is reserved"),
        ({**FUNCTION, "reward_columns": ["faults"]}, "reward_columns", "is reserved"),
        ({"kl_target": 6.0, "kl_coef": 0.0}, "kl_target", "kl_coef cannot adapt from 0"),
        ({"kl_target": 6.0, "kl_horizon": 2}, "kl_horizon", "less than one batch"),
        ({"ptx_coef": 0.1}, "ptx_coef", "set ptx_datasets"),
        ({"ptx_datasets": [{"path": "gpt2"}]}, "ptx_coef", "set it above 0"),
        ({"ptx_coef": 1.0, "ptx_datasets": [{"path": "/no.jsonl"}]}, "ptx_datasets[0].path", "no such file"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end", "set eval_strategy"),
        ({"early_stopping_patience": 2}, "early_stopping_patience", "set eval_strategy"),
        ({"eval_strategy": "steps", "early_stopping_patience": 2}, "eval_strategy", "held-out rows"),
        ({**EVALUATED, "load_best_model_at_end": True, "save_steps": 3}, "load_best_model_at_end", "multiple"),
        (
            {**EVALUATED, "load_best_model_at_end": True, "save_strategy": "epoch", "save_steps": None},
            "load_best_model_at_end",
            "set one",
        ),
        ({"metric_for_best_model": "eval_loss"}, "metric_for_best_model", "eval_reward, eval_kl"),
        ({"total_episodes": 3}, "total_episodes", "less than one batch, 4"),
        ({"whiten_rewards": True}, "whiten_rewards", "8 responses or more"),
        ({"num_mini_batches": 0}, "num_mini_batches", "above 0"),
        ({**EVALUATED, "lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type", "set linear, cosine"),
        ({**EVALUATED, "lr_scheduler_type": "greedy"}, "lr_scheduler_type", "set linear, cosine"),
        ({"optim": "schedule_free_adamw"}, "optim", "only Trainer's own loop runs it"),
        ({"optim": "galore_adamw"}, "optim", "only Trainer's own loop runs it"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_what_does_not_fit_together(config_of, tmp_path, changes, key, remedy):
    problems = problems_by_key(config_of, tmp_path, **changes)
    assert key in problems
    assert re.search(remedy, problems[key]), problems[key]
    assert not {other for other in problems if other not in (key, "early_stopping_patience")}


@pytest.mark.parametrize(
    "changes",
    [
        {**FUNCTION, "reward_model_path": None},
        {**FUNCTION, "reward_weights": [1.0, 0.5], "reward_columns": ["answer"]},
        {**EVALUATED, "load_best_model_at_end": True, "early_stopping_patience": 2},
        {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "test_split_size": 2},
        {"kl_target": 6.0, "max_kl": 30.0},
        {"total_episodes": 1, "max_steps": 3},
        {"missing_eos_penalty": 1.0, "reward_clip": 3.0, "normalize_rewards": True, "value_warmup_steps": 0},
        {
            **EVALUATED,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_length",
            "greater_is_better": False,
        },
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
        {**EVALUATED, "eval_on_start": True, "eval_delay": 1, "logging_first_step": True, "use_cpu": True},
    ],
    ids=str,
)
def test_what_is_right_is_taken(config_of, tmp_path, changes):
    config_of("ppo", tmp_path, **changes)


def test_a_batch_larger_than_the_data_is_reported_before_training(run_stage, tmp_path):
    with pytest.raises(HfkitError, match=r"8 prompts < batch of 16 .* use some prompts twice"):
        run_stage("ppo", tmp_path / "out", per_device_train_batch_size=8, total_episodes=16)
    assert not (tmp_path / "out").exists()


def test_a_batch_is_that_of_all_processes(config_of, tmp_path, monkeypatch):
    settings = {"total_episodes": 4, "kl_target": 6.0, "kl_horizon": 4}
    config = config_of("ppo", tmp_path, **settings)
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = {problem.key: problem.remedy for problem in ppo_problems(config)}
    assert [*found] == ["total_episodes", "kl_horizon"]
    assert "less than one batch, 8 " in found["total_episodes"] and "(8 responses)" in found["kl_horizon"]


@pytest.mark.parametrize("kind", ["base", "sft"])
def test_a_language_model_is_refused_as_a_reward_model(request, config_of, tmp_path, kind):
    path = str(request.getfixturevalue(f"{kind}_dir"))
    problems = problems_by_key(config_of, tmp_path, reward_model_path=path)
    assert problems.keys() == {"reward_model_path"}
    assert "not a reward model, which has a score head" in problems["reward_model_path"]
