"""Validates how several processes share a model: what cannot train or publish all its weights is refused.

`accelerate launch` passes its settings in environment variables, a config in the fields of the trainer's arguments.
"""

from dataclasses import replace

from hfkit.config.registry import spec_of_config
from hfkit.core.errors import Problem
from hfkit.core.launch import DEEPSPEED, FSDP, deepspeed_of_environment, zero_stage
from hfkit.stages.checks.fsdp import fsdp_problems, training_problems, ppo_fsdp_problems

PPO_NEEDS_DDP = (
    "PPO updates its models itself, and under DeepSpeed nothing would be trained: several processes train with DDP "
    "(`accelerate launch --multi_gpu`)"
)


def process_problems(config) -> list[Problem]:
    """Return problems of weights that are shared out among processes: PPO takes DDP only."""
    spec, extra = spec_of_config(config), getattr(config, "extra", {})
    if spec is None or not spec.trains_a_model:
        return []
    problems = fsdp_problems(config, spec)
    settings = {DEEPSPEED: deepspeed_of_environment(), "deepspeed": extra.get("deepspeed")}
    for key, given in settings.items():
        if not given:
            continue
        if spec.loop == "ppo":
            problems.append(Problem(key, given, PPO_NEEDS_DDP))
        elif zero_stage(given) == 3:
            remedy = (
                f"ZeRO-3 shares the weights out, and {spec.name} cannot gather them to publish them yet: set stage 2"
            )
            problems.append(Problem(key, given, f"{remedy}, or train with DDP"))
    return problems


def sharding_problems(config, engine: str) -> list[Problem]:
    """Return why an engine (ddp, fsdp2, zero2, zero3) cannot train a config, whatever else a launch asks for."""
    is_ppo, problems = spec_of_config(config).loop == "ppo", []
    if engine == "fsdp2":
        problems = (ppo_fsdp_problems(config) if is_ppo else []) + training_problems(config)
    elif engine != "ddp" and is_ppo:
        problems = [Problem(DEEPSPEED, engine, PPO_NEEDS_DDP)]
    launch = (DEEPSPEED, FSDP)
    return [replace(one, key="--engine", value=engine) if one.key in launch else one for one in problems]
