"""Validates how several processes share a model: configs that an engine cannot train, save and resume."""

from accelerate.utils import parse_flag_from_env

from hfkit.config.registry import StageSpec, spec_of_config
from hfkit.core.errors import Problem
from hfkit.core.launch import FSDP, engine, world_size
from hfkit.stages.checks.deepspeed import deepspeed_problems
from hfkit.stages.checks.fsdp import fsdp_problems


def process_problems(config) -> list[Problem]:
    """Return problems of the engine for several processes; a stage that trains no model has none."""
    spec = spec_of_config(config)
    if not spec.trains_a_model:
        return []
    return fsdp_problems(config, spec) + deepspeed_problems(config, spec) + sampling_problems(config, spec)


def sampling_problems(config, spec: StageSpec) -> list[Problem]:
    """Return problems of a second number of batches per step, and of different numbers of batches or rows in processes.

    Processes without a batch would block the others. The loss of a reward model is a mean over the rows of a process,
    so rows would weigh less in a larger batch.
    """
    problems, loading = [], config.extra.get("accelerator_config")
    if isinstance(loading, dict) and "num_steps" in (loading.get("gradient_accumulation_kwargs") or {}):
        remedy = "set gradient_accumulation_steps instead of num_steps"
        problems.append(Problem("accelerator_config", loading, remedy))
    if isinstance(loading, dict) and loading.get("use_seedable_sampler", True) is not True:
        remedy = "a run that resumes in a later epoch would see rows in another order: remove use_seedable_sampler"
        problems.append(Problem("accelerator_config", loading, remedy))
    is_shared = engine(config.extra) is not None or parse_flag_from_env(FSDP)
    if is_shared and isinstance(loading, dict) and loading.get("even_batches", True) is not True:
        remedy = "a process without a batch would block the others: remove even_batches"
        problems.append(Problem("accelerator_config", loading, remedy))
    if is_shared and config.extra.get("auto_find_batch_size"):
        remedy = "processes could choose different sizes: set per_device_train_batch_size instead"
        problems.append(Problem("auto_find_batch_size", True, remedy))
    key, sums_labels = "train_sampling_strategy", spec.makes != "reward model"
    if config.extra.get(key) != "batch_rebalance" or world_size() == 1:
        return problems
    if sums_labels and not config.micro_batches_by_length:
        return problems
    remedy = "processes would get batches of different sizes: remove it; micro_batches_by_length also avoids padding"
    return [*problems, Problem(key, "batch_rebalance", remedy, keys=("micro_batches_by_length",))]
