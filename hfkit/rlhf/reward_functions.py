"""Reward functions: Python functions that score replies, named as package.module:function."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable

import torch

from hfkit.core.errors import HfkitError, reason
from hfkit.data.messages import Messages

RewardFunction = Callable[..., Iterable[float]]
"""f(prompts, replies, **columns): one finite number for each reply."""


def import_reward_function(path: str) -> RewardFunction:
    """Return the function `module:name`; modules of the working directory are found too.

    Raises:
        HfkitError: it cannot be imported, or is not callable.
    """
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:  # the path of a console script starts with the script's own folder
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a user's module raises
        raise HfkitError(f"reward function {path}: {reason(error)}; write it as package.module:function") from error
    if not callable(function):
        raise HfkitError(f"reward function {path} is a {type(function).__name__}, which is not callable")
    return function


def call_reward_function(
    name: str, function: RewardFunction, prompts: list[str | Messages], replies: list[str], columns: dict[str, list]
) -> torch.Tensor:
    """Return the scores of a function, float32 (N,).

    Raises:
        HfkitError: it raises anything (HFKIT_DEBUG=1 shows where), or does not return one finite number for each reply.
    """
    try:
        scores = function(prompts, replies, **columns)
    except Exception as error:  # whatever a user's function raises
        raise HfkitError(f"reward function {name} raised {reason(error)}") from error
    return validate_scores(name, scores, len(replies))


def validate_scores(name: str, scores: Iterable[float], count: int) -> torch.Tensor:
    """Return the scores of a function as a tensor, float32 (count,).

    Raises:
        HfkitError: they are not one finite number for each reply.
    """
    try:
        scores = [*scores]
        if any(isinstance(score, str) for score in scores):
            raise TypeError("text")
        tensor = torch.tensor([float(score) for score in scores])
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise HfkitError(f"reward function {name} returned {scores!r:.80}, not a number for each reply") from error
    if len(tensor) != count or not tensor.isfinite().all():
        raise HfkitError(
            f"reward function {name} returned {len(tensor)} numbers for {count} replies, or not finite ones"
        )
    return tensor
