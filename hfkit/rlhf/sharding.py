"""The models of PPO under FSDP2: each process holds a shard of every parameter, and of the optimizer's state.

Passes without a gradient compute with whole weights, gathered once: within them no process waits for another, so each
may sample responses of different lengths, in different micro-batches. A pass with a gradient gathers a layer at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from hfkit.core.console import is_main_process
from hfkit.core.unwrap import without_adapter
from hfkit.models.score_head import compute_head_in_float32
from hfkit.rlhf.forward import Model
from hfkit.training.sharding import gathered

IN_BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
FROM_MAIN_PROCESS = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def shard(model: Model, bf16: bool = False) -> None:
    """Shard a model's parameters among the processes, in place; their values are those of the main process.

    Gradients are summed over the processes. The backbone and the head of a classifier are sharded as separate models,
    since only they are called, never the classifier itself.

    Args:
        bf16: whether to gather weights in bfloat16, which takes half the memory; the head of a classifier stays in
            float32, and so do shards and sums of gradients.
    """
    compute_head_in_float32(model)  # before `fully_shard`, which changes the head's class
    state, weights = PartialState(), model.state_dict()
    mesh = init_device_mesh(state.device.type, (state.num_processes,))
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    inner = without_adapter(model)
    head = getattr(inner, "score", None)
    outermost = [model] if head is None else [inner.base_model, head]
    for module in (*layers, *outermost):
        precision = IN_BF16 if bf16 and module is not head else MixedPrecisionPolicy()
        part = fully_shard(module, mesh=mesh, reshard_after_forward=module in layers, mp_policy=precision)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    set_model_state_dict(model, weights, options=FROM_MAIN_PROCESS)
    model.tie_weights()  # weights that only the main process had loaded were assigned one by one


@contextmanager
def whole_weights(model: torch.nn.Module | None) -> Iterator[None]:
    """Hold the whole weights of a model in each process, for passes without a gradient; every process must enter."""
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)] if model else []
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)  # an interrupted pass would keep them whole
            part.reshard()
            # the head is called after its model, so weights outside of the layers stay whole until the backward pass
            part.set_reshard_after_forward(isinstance(part, GradientCheckpointingLayer), recurse=False)


def gather_tensors(tensors: dict[str, Any]) -> dict[str, Any]:
    """Return values by name in the main process, with sharded tensors whole and on the CPU; {} in the others.

    Every process must call this.
    """
    found = {}
    for name, one in tensors.items():
        tensor = gathered(one, PartialState().device)
        if is_main_process():
            found[name] = one if tensor is one else tensor.cpu()
    return found


def sharded_as(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return this process's shard of a whole tensor, if processes hold shards of the `other`, else the tensor."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
