"""Lets accelerate shard models among processes on CPUs, which it does on accelerators alone: FSDP2 and DeepSpeed.

Only tests use it, in separate processes. What it replaces is private, and was read in accelerate 1.15.0.
"""

from accelerate import PartialState
from accelerate.utils import DistributedType

ENGINES = {
    "multi_gpu": {},
    "fsdp2": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_OFFLOAD_PARAMS": "false",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
        "FSDP_ACTIVATION_CHECKPOINTING": "false",
    },
    "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
    },
}
"""What `accelerate launch` sets in the environment of each process, by engine."""
ON_CPUS = {"ACCELERATE_TORCH_DEVICE": "cpu"}


def shard_on_cpus() -> None:
    """Let accelerate take the processes of a launch for those of accelerators that gloo connects.

    `PartialState._prepare_backend` decides by the devices of the machine which kind of launch it is, and
    `AcceleratorState` shards in launches of accelerators only. Tensors are on the CPU: `ACCELERATE_TORCH_DEVICE`.
    """
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)


def use_gloo_alone() -> None:
    """Keep DeepSpeed 0.19.8 from compiling its own reduction for CPUs, of which two processes wait for each other."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
