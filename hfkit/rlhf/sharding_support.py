"""Checks what PPO can train under FSDP2, where it shards its models itself and gathers whole weights to sample."""

import torch
from accelerate.utils import parse_flag_from_env
from torch.distributed.fsdp import FSDPModule

from hfkit.core.errors import Problem
from hfkit.core.launch import FSDP, FSDP_OFFLOADS, FSDP_RECOMPUTES


def ppo_fsdp_problems(has_adapter: bool, rollout_engine: str) -> list[Problem]:
    """Return the problems of a launch of PPO under FSDP2."""
    problems = []
    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        problems.append(
            Problem(FSDP, True, f"PPO under FSDP2 needs torch 2.9 or newer, but {torch.__version__} is installed")
        )
    if has_adapter:
        remedy = "PPO samples from whole weights and does not shard a frozen base: train adapters with DDP"
        problems.append(Problem(FSDP, True, f"{remedy} (`accelerate launch --multi_gpu`)", keys=("use_peft",)))
    if rollout_engine == "static":
        remedy = "Transformers cannot compile a model that FSDP2 shards: set generate"
        problems.append(Problem("rollout_engine", rollout_engine, remedy))
    if parse_flag_from_env(FSDP_OFFLOADS):
        problems.append(Problem(FSDP_OFFLOADS, True, "PPO keeps shards on the GPUs: set fsdp_offload_params: false"))
    if parse_flag_from_env(FSDP_RECOMPUTES):
        remedy = "set fsdp_activation_checkpointing: false; hfkit's gradient_checkpointing recomputes activations"
        problems.append(Problem(FSDP_RECOMPUTES, True, remedy))
    return problems
