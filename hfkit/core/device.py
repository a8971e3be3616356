"""This process's device, and its group where several were launched."""

import os
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from hfkit.core.console import warn

GROUP_TIMEOUT = 1800  # seconds, as in Transformers; NCCL's own 600 are less than it may take one process to save


def prepare_device(config) -> None:
    """Chooses a stage's device and joins its process group, as its config says; tells of GPUs that are left out."""
    state = process_state(config.extra)
    gpus = torch.cuda.device_count() if state.device.type == "cuda" else 0
    if gpus > 1 and state.num_processes == 1:
        warn(f"{gpus} GPUs are visible and one is used: `accelerate launch -m hfkit.cli STAGE ...` takes all")


def device() -> torch.device:
    """This process's device: its GPU where there is one, and `ACCELERATE_USE_CPU` is not set, else the CPU.

    Attention goes without cuDNN's kernels from then on. In half precision their backward gives NaN for some lengths of
    padded rows (pytorch issue 196678: on Hopper, where torch takes them since 2.11), and their forward wrong tokens
    (193893: on Blackwell); torch's other kernels take their place.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    return process_state({}).device


def process_state(settings: dict):
    """accelerate's state of this process; the first to ask for it joins the process group.

    That is never Transformers, which would pass on the same settings: models are loaded before its arguments are made.

    Args:
        settings: `use_cpu`, `ddp_backend` and `ddp_timeout` (seconds) as Transformers has them.
    """
    return PartialState(
        cpu=settings.get("use_cpu", False) or parse_flag_from_env("ACCELERATE_USE_CPU"),
        backend=settings.get("ddp_backend"),
        timeout=timedelta(seconds=settings.get("ddp_timeout", GROUP_TIMEOUT)),
    )


def wait_for_everyone() -> None:
    """Return once every process of the launch has come here; a process alone does not wait."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        PartialState().wait_for_everyone()


def has_bf16() -> bool:
    """Whether this process's device is a GPU that computes in bf16; older ones only emulate it."""
    return device().type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def random_state_kept(on: torch.device):
    """A context that leaves torch's generators, of the CPU and of a device, as they were."""
    return torch.random.fork_rng([on] if on.type == "cuda" else [])
