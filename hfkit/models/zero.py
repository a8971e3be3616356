"""Handles parameters that DeepSpeed ZeRO-3 partitions among processes: they are empty between uses."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import maybe_gather_lm_head_ctx

from hfkit.core.compat_sharding import whole_models
from hfkit.core.console import is_main_process

CANNOT_MERGE = (
    "ZeRO-3 partitions the base, so the adapter cannot be merged into it: merge it first (`hfkit merge`), or "
    "set use_peft"
)


def is_partitioned(parameter: torch.Tensor) -> bool:
    """Return whether each process holds only a part of a parameter."""
    return hasattr(parameter, "ds_id")


def own_part(parameter: torch.Tensor) -> torch.Tensor:
    """Return the data of a parameter in this process: its part, or all of it."""
    return getattr(parameter, "ds_tensor", parameter)


def parameter_count(model: PreTrainedModel) -> int:
    """Return the number of parameters of a model, including partitioned ones."""
    parts = (parameter for parameter in model.parameters() if is_partitioned(parameter) and not parameter.numel())
    return model.num_parameters() + sum(parameter.ds_numel for parameter in parts)


@contextmanager
def whole(parameter: torch.Tensor):
    """Gather all values of a parameter for a block; every process must enter it."""
    if not is_partitioned(parameter):
        yield parameter
        return
    import deepspeed  # noqa: PLC0415 - an extra

    with deepspeed.zero.GatheredParameters([parameter]):
        yield parameter


def make_in_shards(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Return a new partitioned model with the weights that one process would create; every process must call it.

    Only the main process creates the whole model, on the CPU.
    """
    with whole_models(), torch.device("cpu" if is_main_process() else "meta"):
        model = make()
    shape = copy.deepcopy(model.config)
    return type(model).from_pretrained(None, config=shape, state_dict=dict(model.state_dict()), dtype=model.dtype)


def has_partitioned_head(model: PreTrainedModel) -> bool:
    """Return whether each process holds only a part of a language model's output head."""
    output = model.get_output_embeddings()
    return output is not None and any(map(is_partitioned, output.parameters()))


def gathers_head(model: PreTrainedModel) -> bool:
    """Return whether `whole_head` gathers weights: only weights without a gradient, which would go to a part."""
    if not has_partitioned_head(model):
        return False
    return not torch.is_grad_enabled() or not any(w.requires_grad for w in model.get_output_embeddings().parameters())


def whole_head(model: PreTrainedModel) -> AbstractContextManager:
    """Return a context in which the output head can be called chunk by chunk; every process must enter it."""
    if not gathers_head(model):
        return nullcontext()
    return maybe_gather_lm_head_ctx(*model.get_output_embeddings().parameters())
