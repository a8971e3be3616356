"""Finds the checkpoints of a run, and those that can be resumed."""

import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from hfkit.core.console import warn
from hfkit.core.errors import HfkitError
from hfkit.core.files import read_json_mapping
from hfkit.training.checkpoint_state import foreign_fault
from hfkit.training.zero_checkpoint import LATEST


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that can be resumed, or None; warn about each that cannot.

    The trainer writes `trainer_state.json` last; files that were damaged later are detected too.
    """
    for path in checkpoints_in(folder):
        fault = checkpoint_fault(path)
        if fault is None:
            return path
        warn(f"skipping {path}: {fault}")
    return None


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the folders of checkpoints in a run's folder, complete or not, newest first."""
    paths = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(paths, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def checkpoint_fault(checkpoint: Path) -> str | None:
    """Return why a checkpoint cannot be resumed, or None. Reads the headers of tensor files, not the tensors."""
    for file in {checkpoint / "trainer_state.json", *checkpoint.glob("*_state.json")}:
        if read_json_mapping(file) is None:
            return f"{file.name} cannot be read"
    own = () if (checkpoint / LATEST).is_file() else ("optimizer*", "scheduler.pt")  # DeepSpeed keeps these in a folder
    for pattern in (*own, "rng_state*"):
        if not any(checkpoint.glob(pattern)):
            return f"{pattern} is missing"
    if not any(checkpoint.rglob("*model*")):
        return "its weights are missing"
    for file in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]:
        if not zipfile.is_zipfile(file):
            return f"{file.name} is truncated"
    for file in checkpoint.glob("*.safetensors"):
        try:
            with safe_open(file, framework="np"):
                pass
        except (OSError, SafetensorError):
            return f"{file.name} is truncated"
    return foreign_fault(checkpoint)


def require_own_weights(checkpoint: Path, model: torch.nn.Module) -> None:
    """Raise HfkitError if a checkpoint lacks trained weights by their names in the model: `Trainer` would ignore that.

    Checkpoints that Transformers saves have other names for the experts of a mixture, and for multimodal models.
    Sharded checkpoints and adapters are not read.
    """
    stored: set[str] = set()
    for file in checkpoint.glob("model*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            stored.update(tensors.keys())
    names: dict[torch.nn.Parameter, set[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if weight.requires_grad:
            names.setdefault(weight, set()).add(name)
    lacking = [min(tied) for tied in names.values() if stored and stored.isdisjoint(tied)]
    if lacking:
        raise HfkitError(
            f"{checkpoint} has no weights named {lacking[0]} ({len(lacking)} are missing): it was saved by another "
            "program or an older release, and training would continue with the base's. Choose another output_dir"
        )
