"""The device that a plan is for: its capacity, and the memory that libraries take before any tensor exists."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

# The CUDA context with the libraries' kernels and workspaces; between 0.4 and 0.8 GB on recent cards.
CUDA_CONTEXT = 600_000_000


@dataclass(frozen=True)
class Device:
    """What a stage runs on: its capacity, and the part that libraries take before any tensor exists, in bytes."""

    name: str
    capacity: int
    taken: int
    is_gpu: bool


def find_device(capacity: int | None = None) -> Device:
    """Return the first GPU, or the machine's memory (the container's limit, if that is less).

    On a CPU, `taken` is measured in this process, which has imported the same libraries as a stage.

    Args:
        capacity: bytes to use in place of the device's own.
    """
    asked = None if capacity is None else "--memory"
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return Device(asked or card.name, capacity or card.total_memory, CUDA_CONTEXT, True)
    page = os.sysconf("SC_PAGE_SIZE")
    memory = page * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text(encoding="utf-8").strip()).isdigit():
        memory = min(memory, int(text))
    resident = Path("/proc/self/statm")
    taken = int(resident.read_text(encoding="utf-8").split()[1]) * page if resident.is_file() else CUDA_CONTEXT
    return Device(asked or "this machine's memory", capacity or memory, taken, False)
