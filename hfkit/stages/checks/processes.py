"""Validates how several processes share a model: what cannot train or publish all its weights is refused.

`accelerate launch` passes its settings in environment variables, a config in the fields of the trainer's arguments.
"""

import os
from pathlib import Path

from accelerate.utils import parse_flag_from_env

from hfkit.config.registry import spec_of_config
from hfkit.core.errors import Problem
from hfkit.core.files import read_text
from hfkit.core.limits import load_json

DEEPSPEED, FSDP = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"
ZERO_STAGE, DEEPSPEED_FILE = "ACCELERATE_DEEPSPEED_ZERO_STAGE", "ACCELERATE_DEEPSPEED_CONFIG_FILE"


def process_problems(config) -> list[Problem]:
    """Return problems of weights that are shared out among processes: PPO takes DDP only, other stages ZeRO-2 too."""
    spec, extra = spec_of_config(config), getattr(config, "extra", {})
    if spec is None or not spec.trains_a_model:
        return []
    problems = []
    ddp = "several processes train with DDP (`accelerate launch --multi_gpu`)"
    for key, value in ((FSDP, parse_flag_from_env(FSDP)), ("fsdp", extra.get("fsdp"))):
        if value:
            remedy = f"FSDP shares the weights out, and {spec.name} cannot gather them to publish them yet: {ddp}"
            problems.append(Problem(key, value, remedy))
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


def deepspeed_of_environment() -> dict | str | None:
    """Return the settings of DeepSpeed that `accelerate launch` passes, a file or the stage of ZeRO; None if unused."""
    if not parse_flag_from_env(DEEPSPEED):
        return None
    return os.environ.get(DEEPSPEED_FILE) or {"zero_optimization": {"stage": os.environ.get(ZERO_STAGE, "2")}}


def zero_stage(given: dict | str) -> int | None:
    """Return the stage of ZeRO in DeepSpeed's settings, or in the JSON file that has them; None if unknown."""
    try:
        settings = given if isinstance(given, dict) else load_json(read_text(Path(given)))
        return int(settings["zero_optimization"]["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
