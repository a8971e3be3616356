"""Checks the files of a checkpoint before they are loaded, since a checkpoint may come from an untrusted source."""

import pickle
from dataclasses import fields
from pathlib import Path

import torch
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from hfkit.core.errors import HfkitError
from hfkit.core.files import read_json_mapping
from hfkit.core.launch import SAVES_SHARDS, SAVES_WHOLE, engine, fsdp_state, world_size
from hfkit.core.links import require_own_files
from hfkit.records.shards import require_own_shards
from hfkit.training.sharded_checkpoint import sharded_fault
from hfkit.training.zero_checkpoint import LATEST, zero_fault, zero_launch, zero_words

MORE_KEYS = ("episode",)
"""Keys in the state of TRL's PPO trainer."""
COUNTERS = ("global_step", "max_steps", "num_train_epochs", "num_input_tokens_seen", "epoch")
LARGEST_COUNT = 1 << 53
WHOLE_STATE = ("pytorch_model_fsdp.bin", "optimizer.bin")
"""Weights and optimizer state of FSDP2 with `FULL_STATE_DICT`."""
SHARDED_STATE = ("pytorch_model_fsdp_0", "optimizer_0")
"""Folders of both with `SHARDED_STATE_DICT`."""
PICKLED_STATE = ("*.pt", "*.pth", *WHOLE_STATE)
NOT_READ = "training_args.bin"


def foreign_fault(checkpoint: Path) -> str | None:
    """Return why a checkpoint was not written by hfkit or cannot be loaded without running code, or None.

    Pickled tensors are read with `weights_only`, as in Transformers, and stay on the disk.
    """
    try:
        require_own_files(checkpoint)
        require_own_shards(checkpoint)
    except HfkitError as error:
        return str(error)
    for file in checkpoint.iterdir():
        if file.suffix == ".bin" and file.name not in (NOT_READ, *WHOLE_STATE):
            return f"{file.name} is pickled; weights are loaded from safetensors only"
        if file.is_dir() and any(file.glob("adapter_*")):
            return f"{file.name} is an additional adapter"
    if fault := trainer_state_fault(read_json_mapping(checkpoint / "trainer_state.json") or {}):
        return f"trainer_state.json: {fault}"
    for file in sorted(file for pattern in PICKLED_STATE for file in checkpoint.glob(pattern)):
        try:
            with safe_globals():
                torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
            return f"{file.name} holds more than tensors and numbers, or is damaged ({type(error).__name__})"
    if (checkpoint / LATEST).is_file() and (fault := zero_fault(checkpoint)):
        return fault
    faults = (sharded_fault(checkpoint / name) for name in SHARDED_STATE if (checkpoint / name).exists())
    return next(filter(None, faults), None)


def engine_of_checkpoint(checkpoint: Path) -> str:
    """Return the engine that saved a checkpoint of Transformers' `Trainer`, judged by its files."""
    if (checkpoint / LATEST).is_file():
        return zero_launch(checkpoint)
    files = {SAVES_SHARDS: SHARDED_STATE[0], SAVES_WHOLE: WHOLE_STATE[0]}
    kind = next((kind for kind, name in files.items() if (checkpoint / name).exists()), None)
    return f"FSDP2 ({kind})" if kind else "DDP or one process"


def engine_of_launch(settings: dict) -> str:
    """Return the engine that saves checkpoints in this launch, as `engine_of_checkpoint` names it.

    Args:
        settings: as of `launch.engine`.
    """
    name = engine(settings) or "ddp"
    if "zero" in name:
        return zero_words(name == "zero3", world_size())
    return f"FSDP2 ({fsdp_state()})" if "fsdp" in name else "DDP or one process"


def resume_warning(checkpoint: Path, before: dict, now: dict) -> str | None:
    """Return why a resumed run will differ from an uninterrupted one, judged by its records; None if it will not."""
    trained, launched = ((record.get("environment") or {}).get("processes") for record in (before, now))
    if trained not in (None, launched):
        return (
            f"the run had {trained} process(es) and resumes with {launched}: from here on a step has another number of "
            "rows, and rows of this epoch may be repeated or skipped. To avoid this, launch as before"
        )
    names = [f"rng_state_{rank}.pth" for rank in range(launched)] if launched > 1 else []
    if lost := [name for name in names if not (checkpoint / name).exists()]:
        return f"{checkpoint.name} has no {', '.join(lost)}: dropout and samples will differ from an uninterrupted run"
    return None


def trainer_state_fault(state: dict) -> str | None:
    """Return what is invalid in a trainer_state.json, or None."""
    known = {field.name for field in fields(TrainerState)} | {*MORE_KEYS}
    if unknown := [name for name in state if name not in known]:
        return f"unknown keys: {', '.join(unknown[:3])[:80]}"
    for name in COUNTERS:
        value = state.get(name, 0)
        if type(value) not in (int, float) or not 0 <= value <= LARGEST_COUNT:
            return f"{name} is not a valid number"
    if not isinstance(state.get("best_model_checkpoint"), (str, type(None))):
        return "best_model_checkpoint is not a path"
    logs, callbacks = state.get("log_history") or [], state.get("stateful_callbacks") or {}
    if not isinstance(logs, list) or not all(isinstance(log, dict) and type(log.get("step")) is int for log in logs):
        return "log_history is not a list of logs, each with its step"
    if not isinstance(callbacks, dict) or not isinstance(callbacks.get("TrainerControl", {}), dict):
        return "stateful_callbacks is not a mapping"
    return None
