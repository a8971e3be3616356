"""The device that a plan is for: its capacity, and the memory that libraries take before any tensor exists."""

from dataclasses import dataclass

import psutil
import torch
from accelerate.utils import gather_object

from hfkit.core.device import device, free_memory, has_bf16, whole_memory

# The CUDA context with the libraries' kernels and workspaces; between 0.4 and 0.8 GB on recent cards.
CUDA_CONTEXT = 600_000_000

WORKSPACES = 64 << 20
"""Bytes of cuBLAS's workspaces, one for the thread of the forward pass and one for that of the backward pass: 32 MiB on
Hopper, 8 MiB before."""


@dataclass(frozen=True)
class Device:
    """The device of a stage: its capacity, and the part that libraries take before any tensor exists, in bytes.

    Attributes:
        has_bf16: whether it supports bf16, if it is a GPU.
    """

    name: str
    capacity: int
    taken: int
    is_gpu: bool
    has_bf16: bool = True

    @property
    def kind(self) -> str:
        """The type of the device, as torch names it."""
        return "cuda" if self.is_gpu else "cpu"

    @property
    def defaults_to_bf16(self) -> bool:
        """Whether stages compute in bf16 on it by default."""
        return self.is_gpu and self.has_bf16


def find_device(capacity: int | None = None) -> Device:
    """Return this process's GPU, or the machine's memory (the container's limit, if that is less).

    On a CPU, `taken` is measured in this process, which has imported the same libraries as a stage.

    Args:
        capacity: bytes to use instead of the device's own.
    """
    asked = None if capacity is None else "--memory"
    if device().type == "cuda":
        card = torch.cuda.get_device_properties(device())
        return Device(asked or card.name, capacity or card.total_memory, CUDA_CONTEXT, True, has_bf16())
    return Device(
        asked or "this machine's memory", capacity or whole_memory(), psutil.Process().memory_info().rss, False
    )


def device_to_plan(memory: float | None, gpu: float | None) -> Device:
    """Return the device that `--memory` or `--gpu` describes, each in GB; by default this process's device."""
    return gpu_of(int(gpu * 1e9)) if gpu else find_device(memory and int(memory * 1e9))


def gpu_of(capacity: int) -> Device:
    """Return a GPU with bf16 and a capacity in bytes, which does not have to exist."""
    return Device("a GPU", capacity, CUDA_CONTEXT, True)


def free_gpu() -> Device:
    """Return this process's GPU with the memory that is free on the fullest GPU of the launch.

    Memory that torch has reserved and does not use counts as free.
    """
    free = min(gather_object([free_memory(device())]))
    return Device(torch.cuda.get_device_name(device()), free, WORKSPACES, True, has_bf16())
