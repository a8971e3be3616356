"""Validates the keys that only GRPO and RLOO have: batches of whole groups, rewards, rollout engines."""

from hfkit.config.stages import GRPOConfig, RLOOConfig
from hfkit.core.errors import Problem
from hfkit.core.launch import world_size
from hfkit.stages.checks.architecture import find_model_config
from hfkit.stages.checks.rewards import reward_problems
from hfkit.stages.checks.rules import broken_rules
from hfkit.stages.checks.vllm import vllm_problems


def group_problems(config: GRPOConfig | RLOOConfig) -> list[Problem]:
    """Return every problem of the keys that only GRPO and RLOO have."""
    problems = broken_rules(config, group_rules(config)) + vllm_problems(config, find_model_config(config))
    passes = config.extra.get("steps_per_generation")
    if passes is not None and passes < 1:
        problems.append(Problem("steps_per_generation", passes, "must be above 0"))
    return problems + reward_problems(config)


def group_rules(config: GRPOConfig | RLOOConfig) -> list[tuple]:
    """Return the rules of `broken_rules`: whole groups fill a batch of responses, and there is no dropout."""
    passes = config.extra.get("steps_per_generation") or config.gradient_accumulation_steps
    batch, group = config.per_device_train_batch_size * passes * world_size(), config.num_generations
    whole = f"must divide a batch of {batch} responses (per_device_train_batch_size x steps_per_generation, by default "
    whole += "gradient_accumulation_steps, x processes)"
    sizes = ("per_device_train_batch_size", "gradient_accumulation_steps")
    return [
        (config.lora_dropout, "lora_dropout", "dropout would add noise to the policy ratio: set 0"),
        (group < 2, "num_generations", "expected 2 or more: responses to a prompt are compared with one another"),
        (group >= 2 and batch % group, "num_generations", whole, *sizes),
    ]
