"""Gathers, saves and checks weights that FSDP2 or ZeRO-3 shards among the processes.

The functions also take a model that is not sharded, so callers do not have to distinguish.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from hfkit.core.compat import load_checkpoint_weights
from hfkit.core.console import is_main_process
from hfkit.core.errors import HfkitError
from hfkit.core.launch import shards_with_fsdp
from hfkit.models.zero import is_partitioned, own_part, whole


@dataclass(frozen=True)
class CollectiveSave:
    """Saves a trainer's model in its current state into a folder: every process calls it, the main one writes.

    Args:
        save: saves the model into a folder; also gets the whole `weights` if the model is sharded.
        model: default is the trainer's own.
    """

    trainer: Trainer
    save: Callable[..., None]
    model: torch.nn.Module | None = None

    def __call__(self, folder: Path) -> None:
        """Save the model into a folder."""
        model = self.trainer.model if self.model is None else self.model
        weights = gathered_weights(model, self.trainer.accelerator)
        if is_main_process():
            self.save(folder, **({} if weights is None else {"weights": weights}))


def reduce_in_float32(accelerator: Accelerator) -> None:
    """Make FSDP2 sum gradients in float32, as DDP does; accelerate's default is the dtype of mixed precision."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, reduce_dtype=torch.float32)


def shard_present_layers(model: PreTrainedModel | PeftModel, accelerator: Accelerator) -> None:
    """Make FSDP2 shard the layers that a model has, unless the launch names their classes.

    Accelerate's default also names classes of parts that a multimodal architecture may have, and fails without them.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    layers = {type(module).__name__ for module in model.modules() if isinstance(module, GradientCheckpointingLayer)}
    if plugin is not None and plugin.transformer_cls_names_to_wrap is None and layers:
        plugin.transformer_cls_names_to_wrap = sorted(layers)


def load_checkpoint(trainer: Trainer, checkpoint: str) -> None:
    """Load the weights of a checkpoint into a trainer's model outside of training."""
    if trainer.is_deepspeed_enabled:
        start_engine(trainer, checkpoint)
        return
    if shards_with_fsdp() and not is_sharded(trainer.model):
        trainer.create_optimizer()
        model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model = trainer.model_wrapped = model
    load_checkpoint_weights(trainer, checkpoint)


class EngineStartedError(Exception):
    """Ends `Trainer.train` before its first step."""


class StopBeforeFirstStep(TrainerCallback):
    """Ends training as soon as the engine has loaded its checkpoint."""

    def on_train_begin(self, args, state, control, **kwargs):
        raise EngineStartedError


def start_engine(trainer: Trainer, checkpoint: str) -> None:
    """Load a checkpoint into a trainer under DeepSpeed; every process must call this.

    The model then has the checkpoint's weights and can compute, under ZeRO-3 too. A later `Trainer.train` starts a new
    engine.
    """
    stop = StopBeforeFirstStep()
    callbacks = trainer.callback_handler.callbacks
    callbacks.insert(0, stop)  # first, so that no other callback treats this as the start of training
    with suppress(EngineStartedError):
        trainer.train(resume_from_checkpoint=checkpoint)
    callbacks.remove(stop)
    trainer.model_wrapped, trainer.is_in_train = trainer.model, False


def is_sharded(model: torch.nn.Module) -> bool:
    """Return whether processes hold parts of a model, even if some of it is gathered at the moment."""
    return isinstance(model, FSDPModule) or any(map(is_partitioned, model.parameters()))


def gathered_weights(model: PreTrainedModel | PeftModel, accelerator: Accelerator) -> dict[str, torch.Tensor] | None:
    """Return the whole weights of a sharded model on the CPU (the trained ones of an adapter); None if not sharded.

    Every process must call this. One tensor at a time is gathered on the device and kept by the main process; the
    others return {}. Tied weights stay one tensor.
    """
    if not is_sharded(model):
        return None
    wholes: dict[int, torch.Tensor] = {}
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(model, PeftModel) and not getattr(tensor, "requires_grad", False):
            continue
        if id(tensor) not in wholes:
            with whole(tensor):
                values = gathered(tensor.detach(), accelerator.device)
                wholes[id(tensor)] = values.to("cpu", copy=True) if accelerator.is_main_process else torch.empty(0)
                del values  # so that the device never holds two whole tensors
        if accelerator.is_main_process:
            found[name] = wholes[id(tensor)]
    return found


def gathered(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the whole tensor if processes hold parts of it; every process must call this."""
    return tensor.to(device).full_tensor() if isinstance(tensor, DTensor) else tensor


def has_finite_weights(model: torch.nn.Module, accelerator: Accelerator) -> bool:
    """Return whether all trained weights are finite in all processes; every process must call this."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    held = (parameter.to_local() if isinstance(parameter, DTensor) else own_part(parameter) for parameter in trained)
    count = sum(not tensor.isfinite().all() for tensor in held)
    return not accelerator.reduce(torch.tensor(float(count), device=accelerator.device), "sum")


def require_equal_weights(trainer: Trainer) -> None:
    """Raise HfkitError if the processes of a launch under FSDP2 start from different weights, which would be mixed.

    Weights that only the main process has loaded are broadcast and not compared.
    """
    model, accelerator = trainer.model, trainer.accelerator
    if not shards_with_fsdp() or is_sharded(model) or accelerator.state.fsdp_plugin.cpu_ram_efficient_loading:
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    own = torch.stack([parameter.detach().double().sum().to(accelerator.device) for parameter in trained])
    sums = accelerator.gather(own[None])
    if not torch.equal(sums, sums[:1].expand_as(sums)):
        raise HfkitError("the processes have loaded different weights: make the model's files the same on all machines")
