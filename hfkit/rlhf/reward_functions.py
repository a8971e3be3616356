"""Reward functions: Python functions that score replies, named as package.module:function."""

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator

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
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        line = user_line(None, error)
        remedy = line or "; write it as package.module:function"
        raise HfkitError(f"reward function {path}: {reason(error)}{remedy}") from error
    if not callable(function):
        raise HfkitError(f"reward function {path} is a {type(function).__name__}, which is not callable")
    return function


def call_reward_function(
    name: str, function: RewardFunction, prompts: list[str | Messages], replies: list[str], columns: dict[str, list]
) -> torch.Tensor:
    """Return the scores of a function, float32 (N,).

    Raises:
        HfkitError: it raises anything, with the user's line, or does not return one finite number for each reply.
    """
    try:
        scores = function(prompts, replies, **columns)
        scores = [*scores] if isinstance(scores, Iterator) else scores  # a generator runs when its items are taken
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        raise HfkitError(f"reward function {name} raised {reason(error)}{user_line(function, error)}") from error
    return validate_scores(name, scores, len(replies))


def user_line(function: RewardFunction | None, error: BaseException) -> str:
    """Return where in the user's code an error arose: `, in FILE, line N: CODE`; "" if it did not get there.

    Args:
        function: whose file it is; None for an import, where the user's frames follow Python's own.
    """
    frames = traceback.extract_tb(error.__traceback__)[1:]
    file = getattr(sys.modules.get(getattr(function, "__module__", "")), "__file__", None)
    libraries = (os.path.dirname(__file__), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
    own = [frame for frame in frames if frame.filename == file]
    own = own or [frame for frame in frames if not frame.filename.startswith(libraries)]
    return f", in {own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else ""


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
    if len(tensor) != count:
        raise HfkitError(f"reward function {name} returned {len(tensor)} numbers for {count} replies")
    if not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).nonzero()[0])
        raise HfkitError(f"reward function {name} returned {scores[bad]} for reply {bad}, not a finite number")
    return tensor
