"""Validates a launch under FSDP: settings that accelerate would ignore, or could not save and resume."""

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
    SAVES_SHARDS,
    SAVES_WHOLE,
    fsdp_recomputes,
    fsdp_state,
    fsdp_version,
)
from hfkit.rlhf.sharding_support import ppo_fsdp_problems
from hfkit.stages.checks.sharding import sharding_remedy

LAUNCH = "accelerate launch --use_fsdp --fsdp_version 2"
WITHOUT_SHARDS = (DistributedType.NO, DistributedType.MULTI_CPU)
"""Kinds of launches in which accelerate never shards."""
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")
"""Transformers' optimizers that can update shards of tensors; others fail at the first step."""
WRAP_POLICY = "FSDP_AUTO_WRAP_POLICY"
COMPILER = "ACCELERATE_DYNAMO_BACKEND"
SPLIT_SEQUENCES = ("PARALLELISM_CONFIG_TP_SIZE", "PARALLELISM_CONFIG_CP_SIZE", "PARALLELISM_CONFIG_SP_SIZE")


def fsdp_problems(config, spec: StageSpec) -> list[Problem]:
    """Return the problems of FSDP's settings in a config and in its launch."""
    problems = [
        Problem(name, os.environ[name], "hfkit does not split sequences or the tensors of a layer: set 1")
        for name in SPLIT_SEQUENCES
        if os.environ.get(name, "1") != "1"
    ]
    if value := config.extra.get("fsdp"):
        problems.append(Problem("fsdp", value, f"the launcher turns FSDP on: remove it, and use `{LAUNCH}`"))
    if not parse_flag_from_env(FSDP):
        return problems
    if fsdp_version() != "2":
        problems.append(Problem(FSDP_VERSION, fsdp_version(), f"hfkit trains with FSDP2: `{LAUNCH}`"))
    if process_state(config.extra).distributed_type in WITHOUT_SHARDS:
        remedy = "accelerate shards in processes that it launches on GPUs, and on CPUs would silently train with DDP"
        problems.append(Problem(FSDP, True, f"{remedy}: `{LAUNCH}`, or turn FSDP off"))
    if spec.loop == "ppo":
        problems += ppo_fsdp_problems(config.use_peft, config.rollout_engine)
    elif remedy := sharding_remedy(spec, "FSDP2"):
        problems.append(Problem(FSDP, True, remedy))
    else:
        problems += saving_problems(config) + wrap_problems()
    return problems + training_problems(config)


def saving_problems(config) -> list[Problem]:
    """Return the problems of checkpoints under FSDP2."""
    kind = fsdp_state()
    if kind not in (SAVES_SHARDS, SAVES_WHOLE):
        return [Problem(FSDP_STATE, kind, f"FSDP2 saves {SAVES_SHARDS} or {SAVES_WHOLE}: set one of them")]
    if kind == SAVES_WHOLE and getattr(config, "load_in_4bit", False):
        return [Problem(FSDP_STATE, kind, f"accelerate cannot save quantized weights so: set {SAVES_SHARDS}")]
    return []


def wrap_problems() -> list[Problem]:
    """Return the problems of the wrap policy, by which accelerate shards modules; PPO always shards decoder layers."""
    policy = os.environ.get(WRAP_POLICY)
    if policy != "SIZE_BASED_WRAP":
        return []
    remedy = "FSDP2 cannot shard lists of layers, which a policy by size may choose: set TRANSFORMER_BASED_WRAP"
    return [Problem(WRAP_POLICY, policy, remedy)]


def training_problems(config) -> list[Problem]:
    """Return problems of settings with which training under FSDP2 would differ or fail."""
    problems = []
    if config.extra.get("label_smoothing_factor"):
        remedy = "Transformers would not shift the labels of a model that FSDP2 wraps: remove it, or train with DDP"
        problems.append(Problem("label_smoothing_factor", config.extra["label_smoothing_factor"], remedy))
    optimizer = getattr(config, "optim", None) or config.extra.get("optim")
    if optimizer and optimizer not in OPTIMIZERS:
        problems.append(Problem("optim", optimizer, f"cannot update shards: set one of {', '.join(OPTIMIZERS)}"))
    compiles = [
        name for name in ("torch_compile", "torch_compile_backend", "torch_compile_mode") if config.extra.get(name)
    ]
    for name in compiles[:1]:
        remedy = "hfkit cannot gather the weights of a model that is compiled and sharded: remove it"
        problems.append(Problem(name, config.extra[name], remedy))
    if os.environ.get(COMPILER, "no").lower() != "no":
        problems.append(Problem(COMPILER, os.environ[COMPILER], "set dynamo_backend: 'NO' in accelerate's config"))
    if fsdp_recomputes() and config.use_peft:
        remedy = "PEFT cannot find its adapters with it: turn it off, and set gradient_checkpointing: true instead"
        problems.append(Problem(FSDP_RECOMPUTES, True, remedy))
    elif fsdp_recomputes() and config.gradient_checkpointing:
        remedy = f"{FSDP_RECOMPUTES} recomputes activations already: remove one of the two"
        problems.append(Problem("gradient_checkpointing", True, remedy))
    if getattr(config, "load_in_8bit", False):
        problems.append(Problem("load_in_8bit", True, "FSDP2 cannot shard 8-bit weights: set load_in_4bit"))
    return problems
