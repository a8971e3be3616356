"""Ways to share weights among processes that would train nothing, or publish empty weights, are refused."""

import json

import pytest

from hfkit.core.errors import ConfigError
from hfkit.stages.checks.processes import process_problems

LAUNCHED_ZERO_2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
LAUNCHED_ZERO_3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
STAGES = ["pretrain", "sft", "reward", "ppo"]


def problems(config_of, tmp_path, stage, **changes) -> dict[str, str]:
    try:
        config_of(stage, tmp_path / "out", **changes)
    except ConfigError as error:
        return {problem.key: str(problem) for problem in error.problems}
    return {}


@pytest.mark.parametrize("stage", STAGES)
def test_what_accelerate_launches(config_of, tmp_path, monkeypatch, stage):
    before = problems(config_of, tmp_path, stage)
    for name, value in LAUNCHED_ZERO_3.items():
        monkeypatch.setenv(name, value)
    found = problems(config_of, tmp_path, stage)
    assert before == {} and "DDP" in found["ACCELERATE_USE_DEEPSPEED"]


def test_zero_2_trains_nothing_with_ppo_and_is_refused_for_it_alone(config_of, tmp_path, monkeypatch):
    for name, value in LAUNCHED_ZERO_2.items():
        monkeypatch.setenv(name, value)
    assert "nothing would be trained" in problems(config_of, tmp_path, "ppo")["ACCELERATE_USE_DEEPSPEED"]
    assert "ACCELERATE_USE_DEEPSPEED" not in problems(config_of, tmp_path, "sft")


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward"])
def test_keys_of_the_config(config_of, tmp_path, stage):
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    assert "set stage 2" in problems(config_of, tmp_path, stage, deepspeed=str(file))["deepspeed"]


def test_a_file_that_accelerate_passes(config_of, tmp_path, monkeypatch):
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    assert "ZeRO-3" in problems(config_of, tmp_path, "sft")["ACCELERATE_USE_DEEPSPEED"]


def test_a_tokenizer_is_not_concerned(config_of, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert problems(config_of, tmp_path, "tokenizer") == {}


@pytest.mark.parametrize(("stage", "cut"), [("sft", True), ("sft", False), ("reward", True), ("reward", False)])
def test_batches_of_other_numbers_of_rows_in_each_process(config_of, tmp_path, monkeypatch, stage, cut):
    """A process with one row would cut nothing, and others would wait for its number of micro-batches."""
    settings = {"train_sampling_strategy": "batch_rebalance", "micro_batches_by_length": cut}
    config = config_of(stage, tmp_path / "out", **settings)
    assert process_problems(config) == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = [problem.key for problem in process_problems(config)]
    assert found == ["train_sampling_strategy"] * (stage == "reward" or cut)
