"""Validates the engine of a planned launch from the config alone, since a plan runs outside of the launch."""

from dataclasses import replace

from hfkit.config.registry import spec_of_config
from hfkit.core.errors import Problem
from hfkit.core.launch import FSDP
from hfkit.rlhf.sharding_support import ppo_fsdp_problems
from hfkit.stages.checks.fsdp import training_problems
from hfkit.stages.checks.sharding import EIGHT_BIT_UNDER_ZERO_3, sharding_remedy

SHARDING_NAMES = {"fsdp2": "FSDP2", "zero2": "DeepSpeed", "zero3": "DeepSpeed"}


def sharding_problems(config, engine: str) -> list[Problem]:
    """Return why an engine (ddp, fsdp2, zero2, zero3) cannot train a config; the key is `--engine`, or the config's."""
    spec, problems = spec_of_config(config), []
    if engine in SHARDING_NAMES and (remedy := sharding_remedy(spec, SHARDING_NAMES[engine])):
        problems = [Problem("--engine", engine, remedy)]
    elif engine == "fsdp2":
        problems = ppo_fsdp_problems(config.use_peft, config.rollout_engine) if spec.loop == "ppo" else []
        problems += training_problems(config)
    elif engine == "zero3" and getattr(config, "load_in_8bit", False):
        problems = [Problem("load_in_8bit", True, EIGHT_BIT_UNDER_ZERO_3)]
    return [replace(one, key="--engine", value=engine) if one.key == FSDP else one for one in problems]
