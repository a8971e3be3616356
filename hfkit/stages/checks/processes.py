"""Validates how several processes share a model: what cannot train or publish all its weights is refused.

`accelerate launch` passes its settings in environment variables, a config in the fields of the trainer's arguments.
"""

from hfkit.config.registry import StageSpec, spec_of_config
from hfkit.core.errors import Problem
from hfkit.core.launch import DEEPSPEED, deepspeed_of_environment, world_size, zero_stage
from hfkit.stages.checks.fsdp import fsdp_problems


def process_problems(config) -> list[Problem]:
    """Return problems of weights that are shared out among processes: PPO takes DDP only."""
    spec, extra = spec_of_config(config), getattr(config, "extra", {})
    if spec is None or not spec.trains_a_model:
        return []
    problems = fsdp_problems(config, spec) + sampling_problems(config, spec)
    ddp = "several processes train with DDP (`accelerate launch --multi_gpu`)"
    settings = {DEEPSPEED: deepspeed_of_environment(), "deepspeed": extra.get("deepspeed")}
    for key, given in settings.items():
        if not given:
            continue
        if spec.loop == "ppo":
            remedy = f"PPO updates its models itself, and under DeepSpeed nothing would be trained: {ddp}"
            problems.append(Problem(key, given, remedy))
        elif zero_stage(given) == 3:
            remedy = (
                f"ZeRO-3 shares the weights out, and {spec.name} cannot gather them to publish them yet: set stage 2"
            )
            problems.append(Problem(key, given, f"{remedy}, or train with DDP"))
    return problems


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
