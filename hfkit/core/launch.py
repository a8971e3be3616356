"""Reads what a launch configures in accelerate: the engine that trains in its processes, and its settings.

`accelerate launch` passes them in environment variables, and a config passes DeepSpeed's in a field of the trainer's
arguments.
"""

import os
from pathlib import Path

from accelerate.utils import parse_flag_from_env

from hfkit.core.files import read_text
from hfkit.core.limits import load_json

DEEPSPEED, FSDP = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"
ZERO_STAGE, DEEPSPEED_FILE = "ACCELERATE_DEEPSPEED_ZERO_STAGE", "ACCELERATE_DEEPSPEED_CONFIG_FILE"
ZERO_3_SAVES, ZERO_3_GATHERS = (
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL",
    "stage3_gather_16bit_weights_on_model_save",
)
FSDP_VERSION, FSDP_STATE, FSDP_RECOMPUTES = "FSDP_VERSION", "FSDP_STATE_DICT_TYPE", "FSDP_ACTIVATION_CHECKPOINTING"
FSDP_OFFLOADS = "FSDP_OFFLOAD_PARAMS"
FSDP_REPLICAS = "PARALLELISM_CONFIG_DP_REPLICATE_SIZE"

SAVES_SHARDS, SAVES_WHOLE = "SHARDED_STATE_DICT", "FULL_STATE_DICT"


by_config = False
"""Whether the key `deepspeed` of a config has turned DeepSpeed on in this process."""


def turn_on_deepspeed(given: dict | str | None) -> None:
    """Turn DeepSpeed on in accelerate, as `accelerate launch` does, if the key `deepspeed` has a value.

    Without a value, undo what the config of an earlier stage in this process turned on.
    """
    global by_config
    if given and not parse_flag_from_env(DEEPSPEED):
        by_config, os.environ[DEEPSPEED] = True, "true"
    elif by_config and not given:
        by_config = False
        os.environ.pop(DEEPSPEED, None)


def world_size() -> int:
    """Return the number of processes of this launch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def node_count() -> int:
    """Return the number of machines of this launch."""
    return world_size() // int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))


def engine(settings: dict | None = None) -> str | None:
    """Return the engine that trains in several processes: "ddp", "fsdp1", "fsdp2", "zero1", "zero2" or "zero3".

    None in one process, unless a launcher starts it with FSDP or DeepSpeed.

    Args:
        settings: `deepspeed`, as in `TrainingArguments`.
    """
    if given := (settings or {}).get("deepspeed") or deepspeed_of_environment():
        return f"zero{zero_stage(given) or 0}"
    if world_size() == 1 and not (parse_flag_from_env(FSDP) and "LOCAL_RANK" in os.environ):
        return None
    return f"fsdp{fsdp_version()}" if parse_flag_from_env(FSDP) else "ddp"


def shards_with_fsdp() -> bool:
    """Return whether FSDP2 shards the models of this launch."""
    return engine() == "fsdp2"


def shards_weights(settings: dict | None = None) -> bool:
    """Return whether each process of this launch holds only a part of every weight; see `engine`."""
    return engine(settings) in ("fsdp2", "zero3")


def replica_count() -> int:
    """Return how many copies of the model a launch holds under FSDP2: one, or one per group of hybrid sharding."""
    return int(os.environ.get(FSDP_REPLICAS, "1"))


def fsdp_version() -> str:
    """Return the version of FSDP that accelerate uses, if any."""
    return os.environ.get(FSDP_VERSION, "1")


def fsdp_state() -> str:
    """Return how FSDP saves checkpoints."""
    return os.environ.get(FSDP_STATE, SAVES_SHARDS)


def fsdp_recomputes() -> bool:
    """Return whether FSDP itself recomputes activations, instead of the model."""
    return shards_with_fsdp() and parse_flag_from_env(FSDP_RECOMPUTES)


def deepspeed_of_environment() -> dict | str | None:
    """Return DeepSpeed's settings as `accelerate launch` passes them: a file or the ZeRO stage; None if unused."""
    if not parse_flag_from_env(DEEPSPEED) or by_config:
        return None
    zero = {"stage": os.environ.get(ZERO_STAGE, "2"), ZERO_3_GATHERS: parse_flag_from_env(ZERO_3_SAVES)}
    return os.environ.get(DEEPSPEED_FILE) or {"zero_optimization": zero}


def zero_stage(given: dict | str) -> int | None:
    """Return the ZeRO stage in DeepSpeed's settings, or in the JSON file that contains them; None if unknown."""
    try:
        settings = given if isinstance(given, dict) else load_json(read_text(Path(given)))
        return int(settings["zero_optimization"]["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
