"""Describes the machine for a record: versions, device and peak memory."""

import os
import platform
import re
import resource
import sys
from pathlib import Path

import torch

from hfkit.core.device import device
from hfkit.core.launch import engine, node_count, world_size
from hfkit.core.versions import package_versions


def environment(settings: dict | None = None) -> dict:
    """Return versions, the machine and the training engine, without host name, user or paths.

    Args:
        settings: as for `launch.engine`.
    """
    return {
        "versions": package_versions(),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device().type == "cuda" else "cpu",
        "float32_matmul_precision": float32_precision(),
        "cpu_count": os.cpu_count(),
        "processes": world_size(),
        "nodes": node_count(),
        "engine": engine(settings),
    }


def float32_precision() -> str:
    """Return the precision of float32 matrix products; "high" means TF32 on a GPU."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # a caller has used both of PyTorch's conflicting settings
        return "mixed"


def reset_peak_memory() -> None:
    """Reset the peak memory of the GPU; that of the process cannot be reset."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes() -> int:
    """Return this process's peak memory: of the GPU since `reset_peak_memory` if one was used, else resident memory."""
    if peak := torch.cuda.max_memory_allocated():
        return peak
    status = Path("/proc/self/status")
    # getrusage reports at least the peak of the parent process
    if status.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
