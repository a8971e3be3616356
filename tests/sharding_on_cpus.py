"""Lets accelerate shard models among processes on CPUs, which it otherwise does only on accelerators.

It covers FSDP2 and DeepSpeed. Only tests use it, in separate processes. It replaces private parts of accelerate 1.15.0.
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
"""The variables that `accelerate launch` sets in each process, by engine."""
ON_CPUS = {"ACCELERATE_TORCH_DEVICE": "cpu"}


def shard_on_cpus() -> None:
    """Make accelerate treat the processes of a launch as those of accelerators connected by gloo.

    `PartialState._prepare_backend` chooses the kind of launch by the machine's devices, and `AcceleratorState` shards
    only in launches of accelerators. Tensors are on the CPU: `ACCELERATE_TORCH_DEVICE`.
    """
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)


def use_gloo_alone() -> None:
    """Keep DeepSpeed 0.19.8 from compiling its CPU reduction, in which two processes deadlock."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
