"""What a checkpoint of PPO holds beside the trainer's state: all that the next update depends on.

`policy_model.safetensors` and `value_model.safetensors` (the trained weights), `optimizer.pt`, `scheduler.pt`, a random
state a process, and `ppo_state.json` (controllers, callbacks, figures not yet logged). `trainer_state.json` comes last:
with it the checkpoint counts.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hfkit.core.files import read_json_mapping, write_json

PROGRESS = "ppo_state.json"


def trained_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of a model that are trained, by name."""
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


def save_weights(folder: Path, roles: dict[str, torch.nn.Module]) -> None:
    """Trained weights of each role."""
    for role, model in roles.items():
        tensors = {name: tensor.contiguous() for name, tensor in trained_tensors(model).items()}
        save_file(tensors, folder / f"{role}_model.safetensors")


def load_weights(folder: Path, roles: dict[str, torch.nn.Module]) -> None:
    """Puts them back, in place."""
    for role, model in roles.items():
        saved = load_file(folder / f"{role}_model.safetensors")
        for name, tensor in trained_tensors(model).items():
            tensor.copy_(saved[name])


def save_progress(folder: Path, optimizer, scheduler, controllers: dict, kept: dict) -> None:
    """Optimizer, schedule and controllers, and what else is kept, as JSON has it."""
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    states = {name: one.state_dict() for name, one in controllers.items()}
    write_json(folder / PROGRESS, {"controllers": states, "kept": kept})


def load_progress(folder: Path, optimizer, scheduler, controllers: dict) -> dict:
    """Puts them back; returns what else was kept.

    By way of the CPU: each process's optimizer takes them to its own device from there.
    """
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True))
    scheduler.load_state_dict(torch.load(folder / "scheduler.pt", map_location="cpu", weights_only=True))
    saved = read_json_mapping(folder / PROGRESS)
    for name, controller in controllers.items():
        controller.load_state_dict(saved["controllers"][name])
    return saved["kept"]


def save_random_state(folder: Path, process: int) -> None:
    """torch's generators of this process; PPO draws from no others."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    torch.save(states, folder / f"rng_state_{process}.pth")


def load_random_state(folder: Path, process: int) -> None:
    """Puts them back; a process that was not there keeps what its seed gave it."""
    file = folder / f"rng_state_{process}.pth"
    if not file.is_file():
        return
    states = torch.load(file, weights_only=True)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
