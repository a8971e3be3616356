"""Reward functions: Python functions that score replies, named as package.module:f."""

import importlib
import os
import sys
from collections.abc import Callable

import torch

from hfkit.core.errors import HfkitError, reason

RewardFunction = Callable[..., list[float]]


def import_function(path: str) -> RewardFunction:
    """The function `module:name`; modules of the folder that one works in are found too.

    Raises:
        HfkitError: there is none.
    """
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:  # the command line's path begins with its own folder
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a user's module raises
        raise HfkitError(f"reward function {path}: {reason(error)}; write it as package.module:function") from error
    if not callable(function):
        raise HfkitError(f"reward function {path} is a {type(function).__name__}, and cannot be called")
    return function


def called(name: str, function: RewardFunction, prompts: list, replies: list[str], columns: dict) -> object:
    """What a function gives.

    Raises:
        HfkitError: it raises anything; HFKIT_DEBUG=1 shows where.
    """
    try:
        return function(prompts, replies, **columns)
    except Exception as error:  # whatever a user's function raises
        raise HfkitError(f"reward function {name} raised {reason(error)}") from error


def checked(name: str, scores: object, count: int) -> torch.Tensor:
    """A function's scores as a tensor.

    Raises:
        HfkitError: they are not one finite number a reply.
    """
    try:
        scores = [*scores]
        if any(isinstance(score, str) for score in scores):
            raise TypeError("text")
        tensor = torch.tensor([float(score) for score in scores])
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise HfkitError(f"reward function {name} gave {scores!r:.80}, not a number for each reply") from error
    if len(tensor) != count or not tensor.isfinite().all():
        raise HfkitError(f"reward function {name} gave {len(tensor)} numbers for {count} replies, or some not finite")
    return tensor
