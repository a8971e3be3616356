"""Parameters that DeepSpeed ZeRO-3 shares out among processes: empty between their uses, a part in each process."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import maybe_gather_lm_head_ctx

from hfkit.core.compat_sharding import whole_models
from hfkit.core.console import is_main_process

CANNOT_MERGE = (
    "each process has parts of the base under ZeRO-3, into which no adapter can be merged: merge it before "
    "(`hfkit merge`), or set use_peft"
)


def is_partitioned(parameter: torch.Tensor) -> bool:
    """Return whether each process holds a part of a parameter."""
    return hasattr(parameter, "ds_id")


def own_part(parameter: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a parameter: its part, or all of it."""
    return getattr(parameter, "ds_tensor", parameter)


def parameter_count(model: PreTrainedModel) -> int:
    """Return the number of parameters of a model, also of those that are empty now."""
    parts = (parameter for parameter in model.parameters() if is_partitioned(parameter) and not parameter.numel())
    return model.num_parameters() + sum(parameter.ds_numel for parameter in parts)


@contextmanager
def whole(parameter: torch.Tensor):
    """Fill a parameter with all its values in the block; every process has to do so."""
    if not is_partitioned(parameter):
        yield parameter
        return
    import deepspeed  # noqa: PLC0415 - an extra

    with deepspeed.zero.GatheredParameters([parameter]):
        yield parameter


def make_in_shards(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Return a new model in shards, with the weights that it has in one process; every process has to call it.

    The main process alone makes it whole, on the CPU.
    """
    with whole_models(), torch.device("cpu" if is_main_process() else "meta"):
        model = make()
    shape = copy.deepcopy(model.config)
    return type(model).from_pretrained(None, config=shape, state_dict=dict(model.state_dict()), dtype=model.dtype)


def has_partitioned_head(model: PreTrainedModel) -> bool:
    """Return whether each process holds a part of a language model's output head."""
    output = model.get_output_embeddings()
    return output is not None and any(map(is_partitioned, output.parameters()))


def gathers_head(model: PreTrainedModel) -> bool:
    """Return whether `whole_head` gathers weights: those that no gradient is computed for, since it goes to a part."""
    if not has_partitioned_head(model):
        return False
    return not torch.is_grad_enabled() or not any(w.requires_grad for w in model.get_output_embeddings().parameters())


def whole_head(model: PreTrainedModel) -> AbstractContextManager:
    """Return a context in which the output head can be called chunk by chunk; every process has to enter it."""
    if not gathers_head(model):
        return nullcontext()
    return maybe_gather_lm_head_ctx(*model.get_output_embeddings().parameters())
