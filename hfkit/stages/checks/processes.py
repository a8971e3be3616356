"""Validates how several processes share a model: what cannot train or publish all its weights is refused.

`accelerate launch` passes its settings in environment variables, a config in the fields of the trainer's arguments.
"""

from hfkit.config.registry import spec_of_config
from hfkit.core.errors import Problem
from hfkit.core.launch import DEEPSPEED, deepspeed_of_environment, zero_stage
from hfkit.stages.checks.fsdp import fsdp_problems


def process_problems(config) -> list[Problem]:
    """Return problems of weights that are shared out among processes: PPO takes DDP only."""
    spec, extra = spec_of_config(config), getattr(config, "extra", {})
    if spec is None or not spec.trains_a_model:
        return []
    problems = fsdp_problems(config, spec)
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
