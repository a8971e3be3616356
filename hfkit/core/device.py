"""Chooses the device of this process, and joins the process group of a launch."""

import os
import random
import socket
import sys
from dataclasses import asdict
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import psutil
import torch
import transformers
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather, parse_flag_from_env
from packaging.version import Version

from hfkit.core.agreement import require_same, require_shared
from hfkit.core.compat import forget_process_state
from hfkit.core.console import warn
from hfkit.core.errors import ConfigError, Problem
from hfkit.core.joining import current_launch
from hfkit.core.launch import turn_on_deepspeed, world_size
from hfkit.core.versions import package_versions

ROTATES_WITHOUT_MATMUL = Version("5.23")
PRIORITY = 15  # of what `restore_to_numbered_cpus` registers; torch has 10 and those from 20
GROUP_TIMEOUT = 1800  # seconds, as in Transformers; saving in one process may take longer than NCCL's default of 600


def prepare_device(config) -> None:
    """Choose a stage's device, join its process group and set its precision as `config.extra` says.

    Warns about unused GPUs.

    Raises:
        ConfigError: the processes of the launch have different configs, versions or folders, or this process has no
            GPU.
    """
    require_same({f"version of {name}": known for name, known in package_versions().items()}, "install one version")
    require_same(asdict(config), "start all processes with the same command and files")
    require_shared(Path(config.output_dir))
    require_gpu(config.extra)
    if launch := current_launch():
        launch.timeout = config.extra.get("ddp_timeout", GROUP_TIMEOUT)
    state = process_state(config.extra)
    if state.device.type == "cpu" and state.num_processes > 1:
        restore_to_numbered_cpus()
    disable_cudnn_attention()
    set_tf32(state.device.type, config.extra.get("tf32"))
    gpus = torch.cuda.device_count() if state.device.type == "cuda" else 0
    if gpus > 1 and state.num_processes == 1:
        warn(f"only one of {gpus} visible GPUs is used: `accelerate launch -m hfkit.cli STAGE ...` uses all")


@cache
def restore_to_numbered_cpus() -> None:
    """Let `torch.load` restore tensors to "cpu:0", the device of a process in a launch on CPUs; torch knows only "cpu".

    Transformers 5.17 restores the optimizer of a checkpoint to the device of the process; newer versions do not.
    """
    torch.serialization.register_package(
        PRIORITY, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
    )


def set_tf32(kind: str, tf32: bool | None = None) -> None:
    """Set whether a GPU rounds the inputs of float32 matrix products to TF32: 10 bits of mantissa, as in float16.

    Older versions of Transformers compute rotary positions with such a product, and above 2048 TF32 has only even
    integers (transformers issue 48428): with those versions only an explicit `tf32` changes the setting.
    """
    if tf32 is None and Version(transformers.__version__) >= ROTATES_WITHOUT_MATMUL:
        tf32 = True
    if kind == "cuda" and tf32 is not None:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")


def disable_cudnn_attention() -> None:
    """Disable cuDNN's attention kernels in this process; PyTorch then uses its other kernels.

    In half precision their backward pass returns NaN for some lengths of padded rows (pytorch issue 196678, on Hopper,
    where PyTorch uses them since 2.11), and their forward pass wrong tokens (pytorch issue 193893, on Blackwell).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def require_gpu(settings: dict) -> None:
    """Raise ConfigError if the launch uses GPUs but has none for this process; settings: as for `process_state`."""
    index, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if 0 < gpus <= index and not settings.get("use_cpu", False) and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        remedy = f"{socket.gethostname()} shows this process {gpus} GPU(s): start at most that many processes there"
        raise ConfigError([Problem("LOCAL_RANK", index, f"{remedy} (--nproc_per_node, --num_processes)")])


def device() -> torch.device:
    """Return this process's device: that of the running stage, else its GPU if there is one, else the CPU."""
    return process_state().device


def process_state(settings: dict | None = None) -> PartialState:
    """Return accelerate's state of this process; the first call joins the process group.

    Call it before Transformers would join: models are loaded before the trainer's arguments are created. A process
    that was launched alone chooses its device again for each stage.

    Args:
        settings: `use_cpu`, `ddp_backend` (ignored for one process) and `ddp_timeout` (seconds), as in
            `TrainingArguments`. None: the current state.
    """
    is_alone = world_size() == 1
    if settings is not None:
        turn_on_deepspeed(settings.get("deepspeed"))
        if is_alone:
            forget_process_state(AcceleratorState)
    settings = settings or {}
    return PartialState(
        cpu=settings.get("use_cpu", False) or parse_flag_from_env("ACCELERATE_USE_CPU"),
        backend=None if is_alone else settings.get("ddp_backend"),
        timeout=timedelta(seconds=settings.get("ddp_timeout", GROUP_TIMEOUT)),
    )


def wait_for_everyone() -> None:
    """Wait until every process of the launch has called this; a single process does not wait."""
    if world_size() > 1:
        PartialState().wait_for_everyone()


def largest_of_processes(number: int) -> int:
    """Return the largest number that a process of the launch passes; every process must call this."""
    return int(gather(torch.tensor([number], device=device())).max())


def has_bf16() -> bool:
    """Return whether this process's device is a GPU that computes in bf16; older ones only emulate it."""
    return device().type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def free_memory(on: torch.device) -> int:
    """Return the bytes that this process can still allocate on a device: a GPU, or the machine or its container."""
    if on.type == "cuda":
        free, _ = torch.cuda.mem_get_info(on)
        return free + torch.cuda.memory_reserved(on) - torch.cuda.memory_allocated(on)
    free, limit, used = psutil.virtual_memory().available, container_bytes("max"), container_bytes("current")
    return free if limit is None or used is None else min(free, limit - used)


def whole_memory() -> int:
    """Return the bytes of the machine's memory, or the limit of its container if that is less."""
    return min(psutil.virtual_memory().total, container_bytes("max") or sys.maxsize)


def container_bytes(name: str) -> int | None:
    """Return the memory "max" or "current" of this process's container; None without a container or a limit."""
    file = Path(f"/sys/fs/cgroup/memory.{name}")
    text = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None


def random_state(on: torch.device) -> dict:
    """Return the states of the generators of torch, Python and NumPy, for `restore_random_state`.

    Stages draw from torch's, and reward functions from any. A safe load of torch takes them.
    """
    name, keys, *others = cast(tuple, np.random.get_state())
    states = {"cpu": torch.get_rng_state(), "python": random.getstate(), "numpy": (name, keys.tolist(), *others)}
    return states | ({"cuda": torch.cuda.get_rng_state(on)} if on.type == "cuda" else {})


def restore_random_state(states: dict, on: torch.device) -> None:
    """Set the generators to the states that `random_state` returned."""
    torch.set_rng_state(states["cpu"])
    if "python" in states:  # checkpoints of earlier versions lack it
        random.setstate(states["python"])
        np.random.set_state(states["numpy"])
    if "cuda" in states and on.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], on)


def keep_random_state(on: torch.device):
    """Return a context that restores torch's generators of the CPU and of a device at its end."""
    return torch.random.fork_rng([on] if on.type == "cuda" else [])
