"""Checks the folder that DeepSpeed saves in a checkpoint, named by `latest`, before it is read.

Each process saves its part of the optimizer's state there and, under ZeRO-3, of the weights. DeepSpeed unpickles the
files without restriction, so here they are tried with a list of the classes that it writes.
"""

import re
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch.serialization import safe_globals

from hfkit.core.links import leads_out

LATEST = "latest"
"""The file that names the folder."""
CLASSES = {
    "deepspeed.runtime.fp16.loss_scaler": ("DynamicLossScaler", "LossScaler"),
    "deepspeed.runtime.zero.config": ("ZeroStageEnum",),
    "deepspeed.utils.tensor_fragment": ("fragment_address",),
}
WHOLE_WEIGHTS = "mp_rank_00_model_states.pt"
OF_A_PROCESS = "zero_pp_rank_{rank}_mp_rank_00_{kind}_states.pt"


def zero_launch(checkpoint: Path) -> str:
    """Return the launch that saved a valid checkpoint of DeepSpeed, see `zero_words`."""
    folder = checkpoint / (checkpoint / LATEST).read_text(encoding="utf-8").strip()
    return zero_words(not (folder / WHOLE_WEIGHTS).is_file(), len([*folder.glob("*_optim_states.pt")]))


def zero_words(is_split: bool, processes: int) -> str:
    """Return a launch in words, by what its checkpoints depend on: processes, and whether weights are sharded."""
    return f"DeepSpeed ZeRO-{3 if is_split else 2} with {processes} processes"


def zero_fault(checkpoint: Path) -> str | None:
    """Return why DeepSpeed's part of a checkpoint is incomplete or could run code when it is read, or None."""
    name = (checkpoint / LATEST).read_text(encoding="utf-8", errors="replace").strip()
    folder = checkpoint / name
    if not re.fullmatch(r"global_step\d+", name) or not folder.is_dir():
        return f"the folder that {LATEST} names is missing"
    try:
        classes = [getattr(import_module(module), name) for module, names in CLASSES.items() for name in names]
    except ImportError:
        return "it was saved by DeepSpeed, which is not installed: pip install 'hfkit[deepspeed]'"
    states = {}
    for file in sorted(folder.glob("*.pt")):
        if leads_out(file, checkpoint):
            return f"{name}/{file.name} is a link to a file outside of the checkpoint"
        try:
            with safe_globals(classes):
                states[file.name] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, UnpicklingError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
            return f"{name}/{file.name} holds more than tensors and numbers, or is damaged ({type(error).__name__})"
    return missing_part(states, name)


def missing_part(states: dict[str, dict], folder: str) -> str | None:
    """Return which file of a process is missing among the files of a checkpoint (name -> content), or None."""
    is_split = not any(file == WHOLE_WEIGHTS for file in states)  # ZeRO-3 shards the weights too
    first = OF_A_PROCESS.format(rank=0, kind="model") if is_split else WHOLE_WEIGHTS
    if first not in states:
        return f"{folder}/{first} is missing"
    processes = states[first].get("dp_world_size")
    if type(processes) is not int or not 0 < processes <= 1 << 16:
        return f"{folder}/{first} does not state the number of processes"
    kinds = ("model", "optim") if is_split else ("optim",)
    for expected in (OF_A_PROCESS.format(rank=rank, kind=kind) for rank in range(processes) for kind in kinds):
        if not {expected, f"bf16_{expected}"} & states.keys():
            return f"{folder}/{expected} is missing"
    return None
