"""The files of a PPO checkpoint in addition to the trainer's state: everything that the next update depends on.

`policy_model.safetensors` and `value_model.safetensors` (the trained weights), `optimizer.pt`, `scheduler.pt`, a random
state for each process, and `ppo_state.json` (controllers, callbacks, metrics not logged yet). The trainer writes
`trainer_state.json` last: a checkpoint without it is incomplete.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hfkit.core.console import is_main_process
from hfkit.core.device import device, random_state, restore_random_state
from hfkit.core.errors import HfkitError, reason
from hfkit.core.files import read_json_mapping, write_json
from hfkit.rlhf.controllers import Controllers
from hfkit.rlhf.sharding import gather_tensors, sharded_as

PROGRESS = "ppo_state.json"


def trained_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the trainable parameters of a model by name."""
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


def save_weights(folder: Path, models: Mapping[str, torch.nn.Module]) -> None:
    """Save the trained weights of each role."""
    for role, model in models.items():
        tensors = gather_tensors(trained_tensors(model))
        if is_main_process():
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights_file(folder, role))


def load_weights(folder: Path, models: Mapping[str, torch.nn.Module]) -> None:
    """Load the trained weights of each role in place."""
    for role, model in models.items():
        saved = load_file(weights_file(folder, role))
        for name, tensor in trained_tensors(model).items():
            tensor.copy_(sharded_as(saved[name], tensor))


def weights_file(folder: Path, role: str) -> Path:
    """Return the file with the trained weights of a role."""
    return folder / f"{role}_model.safetensors"


def save_progress(
    folder: Path, optimizer: Optimizer, scheduler: LRScheduler, controllers: Controllers, kept: dict
) -> None:
    """Save optimizer, schedule and controllers, and the further values in `kept`, as JSON."""
    saved = optimizer.state_dict()
    saved["state"] = {index: gather_tensors(moments) for index, moments in saved["state"].items()}
    if not is_main_process():
        return
    torch.save(saved, folder / "optimizer.pt")
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    write_json(folder / PROGRESS, {"controllers": controllers.state_dict(), "kept": kept})


def load_progress(folder: Path, optimizer: Optimizer, scheduler: LRScheduler, controllers: Controllers) -> dict:
    """Load what `save_progress` saved, in place; return `kept`.

    Tensors are loaded onto the CPU: the optimizer of each process moves them to its own device.

    Raises:
        HfkitError: they do not fit this optimizer, schedule or these controllers.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    is_sharded = any(isinstance(parameter, DTensor) for parameter in trained)  # each process then reads its own part
    try:
        moments = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True, mmap=is_sharded)
        for index, state in moments["state"].items():
            for name, tensor in state.items():
                if torch.is_tensor(tensor) and tensor.shape == trained[index].shape:
                    state[name] = sharded_as(tensor, trained[index])
        optimizer.load_state_dict(moments)
        scheduler.load_state_dict(torch.load(folder / "scheduler.pt", map_location="cpu", weights_only=True))
        saved = read_json_mapping(folder / PROGRESS) or {}
        controllers.load_state_dict(saved["controllers"])
        return {**saved["kept"]}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise HfkitError(f"{folder} cannot be resumed, remove it: {reason(error)}") from error


def save_random_state(folder: Path, process: int) -> None:
    """Save the states of this process's generators."""
    torch.save(random_state(device()), folder / f"rng_state_{process}.pth")


def load_random_state(folder: Path, process: int) -> None:
    """Load the state of the generators; a process that has none in the checkpoint keeps the state from its seed."""
    file = folder / f"rng_state_{process}.pth"
    if file.is_file():
        restore_random_state(torch.load(file, weights_only=True), device())
