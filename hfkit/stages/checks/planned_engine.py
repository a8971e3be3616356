"""Validates the engine of a planned launch from the config alone, since a plan runs outside of the launch."""

from dataclasses import replace

from hfkit.config.registry import spec_of_config
from hfkit.core.errors import Problem
from hfkit.core.launch import DEEPSPEED, FSDP
from hfkit.rlhf.sharding_support import ppo_fsdp_problems
from hfkit.stages.checks.fsdp import training_problems

PPO_UNDER_ZERO = (
    "PPO updates its models itself, so DeepSpeed would train nothing: train adapters with ddp, full models with fsdp2"
)


def sharding_problems(config, engine: str) -> list[Problem]:
    """Return why an engine (ddp, fsdp2, zero2, zero3) cannot train a config; the key is `--engine`, or the config's."""
    spec, problems = spec_of_config(config), []
    is_ppo = spec.loop == "ppo"
    if spec.holds_reference and not is_ppo and engine != "ddp":
        problems = [Problem("--engine", engine, f"{spec.title} trains with ddp: its reference shares its base")]
    elif engine == "fsdp2":
        problems = ppo_fsdp_problems(config.use_peft, config.rollout_engine) if is_ppo else []
        problems += training_problems(config)
    elif engine.startswith("zero") and is_ppo:
        problems = [Problem(DEEPSPEED, engine, PPO_UNDER_ZERO)]
    elif engine == "zero3" and getattr(config, "load_in_8bit", False):
        remedy = "ZeRO-3 cannot shard 8-bit weights: plan with zero2, or set load_in_4bit"
        problems = [Problem("load_in_8bit", True, remedy)]
    launch = (DEEPSPEED, FSDP)
    return [replace(one, key="--engine", value=engine) if one.key in launch else one for one in problems]
