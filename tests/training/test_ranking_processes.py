"""Rankings in two processes: each has other numbers of pairs, and the loss is that of one process."""

from pathlib import Path

import pytest
from processes import launch

from hfkit.records.metrics_file import read_metrics

REPLIES = ["Ann likes red, thank you.", "Ann likes red.", "red", "blue"]
RANKINGS = [
    {"prompt": "What does Ann like?", "replies": REPLIES, "scores": [3, 2, 1, 0]},
    {"prompt": "What does Bob like?", "replies": REPLIES[:2], "scores": [0, 1]},
]


def reward_run(config) -> None:
    from hfkit.stages.reward import main

    main(config)


@pytest.mark.slow
def test_two_processes_weigh_rankings_as_one_does(config_of, rows_file, tmp_path):
    changes = {"datasets": rows_file(RANKINGS), "test_split_size": None, "max_steps": 1, "learning_rate": 0}
    changes |= {"lora_dropout": 0.0, "score_margin": 0.5}
    one = config_of("reward", tmp_path / "one", per_device_train_batch_size=2, **changes)
    reward_run(one)
    launch(reward_run, config_of("reward", tmp_path / "two", per_device_train_batch_size=1, **changes))
    logged = [read_metrics(Path(tmp_path / name))[0] for name in ("one", "two")]
    assert logged[0]["loss"] == pytest.approx(logged[1]["loss"], rel=1e-5)
    assert logged[0]["min_reward"] == pytest.approx(logged[1]["min_reward"], rel=1e-5)
