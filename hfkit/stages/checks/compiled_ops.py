"""Checks which of DeepSpeed's own optimizers this machine can compile, or has compiled."""

import os
import shutil
from importlib import import_module

import torch
from torch.utils.cpp_extension import CUDA_HOME, is_ninja_available


def missing_compiler(op: str, on: torch.device) -> str | None:
    """Return what is missing to compile an op of DeepSpeed, or None if it can be compiled or is compiled already.

    Args:
        op: its name in DeepSpeed, such as "cpu_adam".
        on: the device of this process.
    """
    if import_module("deepspeed.git_version_info").installed_ops.get(op):
        return None
    if not is_ninja_available():
        return "ninja"
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        return "a C++ compiler"
    return "the CUDA toolkit (nvcc)" if on.type == "cuda" and CUDA_HOME is None else None
