"""Validates how several processes share a model: what an engine cannot train, save and resume is refused."""

from hfkit.config.registry import StageSpec, spec_of_config
from hfkit.core.errors import Problem
from hfkit.core.launch import world_size
from hfkit.stages.checks.deepspeed import deepspeed_problems
from hfkit.stages.checks.fsdp import fsdp_problems


def process_problems(config) -> list[Problem]:
    """Return problems of the engine that trains in several processes; a stage that trains no model has none."""
    spec = spec_of_config(config)
    if spec is None or not spec.trains_a_model:
        return []
    return fsdp_problems(config, spec) + deepspeed_problems(config, spec) + sampling_problems(config, spec)


def sampling_problems(config, spec: StageSpec) -> list[Problem]:
    """Return the problem of processes that would cut other numbers of rows into micro-batches, and wait for each other.

    A reward model's loss is a mean over the rows of a process, so that they would weigh less in a larger batch.
    """
    key, sums_labels = "train_sampling_strategy", spec.makes != "reward model"
    if config.extra.get(key) != "batch_rebalance" or world_size() == 1:
        return []
    if sums_labels and not config.micro_batches_by_length:
        return []
    remedy = "its processes have batches of other numbers of rows: remove it; micro_batches_by_length cuts padding too"
    return [Problem(key, "batch_rebalance", remedy, keys=("micro_batches_by_length",))]
