"""Ways to share weights among processes that would train nothing, or publish empty weights, are refused."""

from itertools import product

import pytest
from config_problems import problems
from quick import mostly_slow

from hfkit.stages.checks.processes import process_problems


@pytest.fixture(autouse=True)
def models(base_dir, sft_dir, reward_dir):
    """What the configs start from is made before a test sets the variables of a launch."""


@pytest.mark.parametrize(
    ("stage", "stage_of_zero"),
    mostly_slow(product(["pretrain", "sft", "reward", "ppo"], ["2", "3"]), [("sft", "2"), ("sft", "3"), ("ppo", "3")]),
)
def test_deepspeed_needs_processes_of_a_launch(config_of, tmp_path, monkeypatch, stage, stage_of_zero):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", stage_of_zero)
    found = problems(config_of, tmp_path, stage)["ACCELERATE_USE_DEEPSPEED"]
    assert ("train adapters with DDP" if stage == "ppo" else "needs a launcher") in found


def test_a_file_that_accelerate_passes(config_of, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "zero3.json")
    assert "zero3.json" in problems(config_of, tmp_path, "sft")["ACCELERATE_DEEPSPEED_CONFIG_FILE"]


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


def test_batches_that_not_every_process_has(config_of, tmp_path, monkeypatch):
    """The processes that have one would wait for the others, as would those that can hold a larger one."""
    settings = {"accelerator_config": {"even_batches": False}, "auto_find_batch_size": True}
    config = config_of("sft", tmp_path / "out", **settings)
    assert process_problems(config) == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [problem.key for problem in process_problems(config)] == [*settings]
