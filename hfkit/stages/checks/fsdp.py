"""Validates a launch under FSDP: what accelerate would ignore, or could not save and resume, is refused."""

import os

from accelerate.utils import DistributedType, parse_flag_from_env

from hfkit.config.registry import StageSpec
from hfkit.core.device import process_state
from hfkit.core.errors import Problem
from hfkit.core.launch import (
    FSDP,
    FSDP_RECOMPUTES,
    FSDP_STATE,
    FSDP_VERSION,
    fsdp_recomputes,
    fsdp_version,
    world_size,
)

SAVES_SHARDS, SAVES_WHOLE = "SHARDED_STATE_DICT", "FULL_STATE_DICT"
LAUNCH = "accelerate launch --use_fsdp --fsdp_version 2"
WITHOUT_SHARDS = (DistributedType.NO, DistributedType.MULTI_CPU)
"""The kinds of launches in which accelerate shards nothing, whatever it is asked for."""
SPLIT_SEQUENCES = ("PARALLELISM_CONFIG_TP_SIZE", "PARALLELISM_CONFIG_CP_SIZE", "PARALLELISM_CONFIG_SP_SIZE")


def fsdp_problems(config, spec: StageSpec) -> list[Problem]:
    """Return the problems of FSDP in a config and in its launch."""
    problems = [
        Problem(name, os.environ[name], "hfkit shares out weights and rows, no tensors of a layer or sequences: set 1")
        for name in SPLIT_SEQUENCES
        if os.environ.get(name, "1") != "1"
    ]
    if value := config.extra.get("fsdp"):
        problems.append(Problem("fsdp", value, f"the launcher turns FSDP on: remove it, and use `{LAUNCH}`"))
    if not parse_flag_from_env(FSDP):
        return problems
    if spec.loop == "ppo":
        remedy = "PPO holds its models whole in each process: train with DDP (`accelerate launch --multi_gpu`)"
        return [*problems, Problem(FSDP, True, remedy)]
    if fsdp_version() != "2":
        problems.append(Problem(FSDP_VERSION, fsdp_version(), f"hfkit trains with FSDP2: `{LAUNCH}`"))
    if world_size() == 1:
        remedy = "one process has nothing to share out: launch several (`--num_processes`), or turn FSDP off"
        problems.append(Problem(FSDP, True, remedy))
    elif process_state(config.extra).distributed_type in WITHOUT_SHARDS:
        remedy = "accelerate shards on GPUs only, and on CPUs would silently train with DDP: turn FSDP off"
        problems.append(Problem(FSDP, True, remedy))
    return problems + saving_problems(config) + training_problems(config)


def saving_problems(config) -> list[Problem]:
    """Return the problems of checkpoints under FSDP2."""
    kind = os.environ.get(FSDP_STATE, SAVES_SHARDS)
    if kind not in (SAVES_SHARDS, SAVES_WHOLE):
        return [Problem(FSDP_STATE, kind, f"FSDP2 saves {SAVES_SHARDS} or {SAVES_WHOLE}: set one of them")]
    if kind == SAVES_WHOLE and getattr(config, "load_in_4bit", False):
        return [Problem(FSDP_STATE, kind, f"accelerate cannot save quantized weights so: set {SAVES_SHARDS}")]
    return []


def training_problems(config) -> list[Problem]:
    """Return the settings with which training would be another one under FSDP2, or fail."""
    problems = []
    if config.extra.get("auto_find_batch_size"):
        remedy = "the processes would not agree on a size: set per_device_train_batch_size"
        problems.append(Problem("auto_find_batch_size", True, remedy))
    if config.extra.get("label_smoothing_factor"):
        remedy = "Transformers would not shift the labels of a model that FSDP2 wraps: remove it, or train with DDP"
        problems.append(Problem("label_smoothing_factor", config.extra["label_smoothing_factor"], remedy))
    if fsdp_recomputes() and config.use_peft:
        remedy = "PEFT does not find its adapters behind it: turn it off, and set gradient_checkpointing: true instead"
        problems.append(Problem(FSDP_RECOMPUTES, True, remedy))
    elif fsdp_recomputes() and config.gradient_checkpointing:
        remedy = f"{FSDP_RECOMPUTES} recomputes activations already: remove one of the two"
        problems.append(Problem("gradient_checkpointing", True, remedy))
    if getattr(config, "load_in_8bit", False):
        problems.append(Problem("load_in_8bit", True, "FSDP2 cannot shard 8-bit weights: set load_in_4bit"))
    return problems
