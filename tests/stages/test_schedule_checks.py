"""The checks of learning rate schedules: keys that a schedule does not read, and rates above the configured one."""

import pytest
from config_problems import problems

EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "test_split_size": 2}
GREEDY = {"lr_scheduler_type": "greedy", "lr_scheduler_kwargs": {"min_lr": 0.0}}


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"lr_scheduler_type": "constant", "warmup_steps": 0.1}, "warmup_steps", "set constant_with_warmup"),
        ({**EVALUATED, **GREEDY, "warmup_steps": 2}, "warmup_steps", "no effect with lr_scheduler_type: greedy"),
        (
            {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"min_lr": 0.1}},
            "lr_scheduler_kwargs",
            "no effect with lr_scheduler_type: constant_with_warmup",
        ),
        ({**EVALUATED, "lr_scheduler_type": "greedy"}, "lr_scheduler_kwargs", "set {min_lr: 0}"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stage", ["grpo", "sft"])
def test_a_schedule_that_would_not_read_a_key_or_exceed_the_learning_rate_is_reported(
    config_of, tmp_path, stage, changes, key, remedy
):
    found = problems(config_of, tmp_path, stage, **changes | {"learning_rate": 1e-4})
    assert [*found] == [key] and remedy in found[key]
